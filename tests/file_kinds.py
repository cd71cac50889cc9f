"""Reads passages of files and bytes, for the tests of the kinds of files."""

from __future__ import annotations

from pathlib import Path

from mlx_colbert.documents.file_passages import passages_of
from mlx_colbert.documents.kinds import kind_of

MIXED = Path(__file__).parent / "data" / "mixed"


def mixed(name, fits=None):
    """(text, position) of each passage of a file of tests/data/mixed."""
    found = passages(str(MIXED / name), (MIXED / name).read_bytes(), fits)
    return [(passage.text, passage.position) for passage in found]


def passages(name, data, fits=None):
    """The passages of a text or of bytes."""
    data = data.encode() if isinstance(data, str) else data
    return list(passages_of(data, name, kind=kind_of(name), fits=fits))


def texts(name, data, fits=None):
    """The texts of the passages of a text or of bytes."""
    return [passage.text for passage in passages(name, data, fits)]


def few_words(limit):
    """A model that reads so many words."""
    return lambda text: len(text.split()) <= limit
