"""Datasets in BEIR's layout: a folder with corpus.jsonl, queries.jsonl and qrels/."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_colbert.errors import InputError, said
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.judgements import read_qrels

__all__ = ["read_beir"]

# Bytes of a line. A longer one is no passage.
_MAX_LINE = 256 << 20


def read_beir(
    folder: str | Path, *, split: str = "test", allow_unknown: bool = False, max_queries: int | None = None
) -> Dataset:
    """The dataset of a folder in BEIR's layout.

    A row of corpus.jsonl is {"_id", "title", "text"}, a row of queries.jsonl {"_id", "text"}. Both files may
    be compressed (.jsonl.gz). qrels/test.tsv has the judgements. A document is its title, a space, its text.

    Args:
        folder: the folder.
        split: the name of the file of judgements, without ".tsv".
        allow_unknown: as for `Dataset.check`.
        max_queries: as for `Dataset.check`.

    Raises:
        InputError: if a file is missing, a row cannot be used, an id is given twice, or a judged id is
            unknown. The message has the file and the line.
        OSError: if a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is not a folder. Give a folder with corpus.jsonl, queries.jsonl, qrels/."
        )
    qrels = read_qrels(_qrels_file(folder, split))
    documents = dict(_texts(folder, "corpus.jsonl"))
    queries = dict(_texts(folder, "queries.jsonl"))
    name = folder.resolve().name
    return Dataset.check(
        name, documents, queries, qrels, allow_unknown=allow_unknown, max_queries=max_queries
    )


def _qrels_file(folder: Path, split: str) -> Path:
    file = folder / "qrels" / f"{split}.tsv"
    if not file.exists():
        there = ", ".join(sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))) or "none"
        raise InputError(f"{folder}: has no judgements qrels/{split}.tsv. Splits that are there: {there}.")
    return file


def _texts(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """The ids of a file of rows, each with title and text."""
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    if path is None:
        raise InputError(f"{folder}: has no {name} or {name}.gz.")
    lines: dict[str, int] = {}
    for number, line in _rows(path):
        try:
            row: Any = json.loads(line)
            text_id, text, title = row["_id"], row["text"], row.get("title") or ""
            if not all(isinstance(value, str) for value in (text_id, text, title)) or not text_id:
                raise TypeError("a value is not text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            example = '{"_id": "d1", "title": "Tea", "text": "Tea is steeped."}'
            raise InputError(f"{path}:{number}: cannot be used as a row. Write {example}.") from error
        if text_id in lines:
            raise InputError(
                f"{path}:{number}: the id {text_id!r} is in line {lines[text_id]} too. Give each row its own."
            )
        lines[text_id] = number
        yield text_id, f"{title} {text}".strip()


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    raise InputError(f"{path}:{number}: the line is longer than {_MAX_LINE >> 20} MB.")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: is not UTF-8. Save the file as UTF-8.") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path}: cannot be decompressed: {said(error)}.") from error
