"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import argparse
import os
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT
    from mlx_colbert.store import Store

__all__ = [
    "add_backend",
    "add_filter",
    "add_full",
    "add_index",
    "add_inputs",
    "add_lengths",
    "add_model",
    "configurable",
    "filter_notes",
    "folder",
    "load_model",
    "location",
    "positive",
    "store_location",
]


def positive(text: str) -> int:
    """An integer of 1 or more."""
    if not (text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of 1 to 999,999,999, got {reprlib.repr(text)}")
    return int(text)


def location(text: str) -> str:
    """A path without a needless `..`, or a hub id.

    `~` becomes the user's folder: a shell does not replace it in `--index=~/x`.
    """
    # An empty path would be the current folder. But it is usually a variable that was not set.
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    if not _is_path(text):
        raise argparse.ArgumentTypeError(f"is not a path: {reprlib.repr(text)}")
    path = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser fails where there is no such user
    if ".." in Path(path).parts:
        plain = os.path.normpath(path)
        # After a link to a folder, `..` leads to another place.
        if os.path.realpath(plain) == os.path.realpath(path):
            return plain
    return path


def _is_path(text: str) -> bool:
    """Whether a text can name a file. A shell passes only such texts, but a program may pass others."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeError:
        return False


def folder(text: str) -> Path:
    """The path of a folder."""
    return Path(location(text))


def store_location(text: str) -> Path | str:
    """The folder of an index, or the location of a store in another engine: lancedb://notes."""
    return location(text) if "://" in text else folder(text)


def add_index(parser: argparse.ArgumentParser, *, or_store: bool = False) -> None:
    """Add --index. With `or_store`, it may be a store in another engine."""
    parser.add_argument(
        "--index",
        required=True,
        metavar="DIR",
        type=store_location if or_store else folder,
        help="the folder of the index" + (", or a store such as lancedb://notes" if or_store else ""),
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the files and folders to read."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        type=location,
        help="a .jsonl, .csv or .tsv file (one passage per row: text, doc_id, title, metadata), another file "
        "such as .md, .html, .pdf, .docx or .py (cut into passages of about 120 words), or a folder of these",
    )
    parser.add_argument(
        "--max-file-bytes",
        type=positive,
        metavar="N",
        help="the size of the largest file that is read (default: the limit of its kind)",
    )


def add_model(
    parser: argparse.ArgumentParser, *, required: bool, otherwise: str = "the one that the index records"
) -> None:
    """Add --model and --backend. `otherwise` says which model is used without --model."""
    advice = "a model folder or hub id" + ("" if required else f"; without it, {otherwise}")
    action = parser.add_argument("--model", required=required, metavar="MODEL", type=location, help=advice)
    if required:
        configurable(action, "model")
    add_backend(parser)


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add --backend."""
    parser.add_argument(
        "--backend",
        choices=["auto", "mlx", "numpy"],
        default="auto",
        help="auto is MLX if there is a GPU, else numpy (default: auto)",
    )


def add_lengths(parser: argparse.ArgumentParser) -> None:
    """Add --document-length and --query-length."""
    parser.add_argument(
        "--document-length",
        type=positive,
        metavar="N",
        help="how many tokens of a passage the model reads (default: as published)",
    )
    parser.add_argument(
        "--query-length", type=positive, metavar="N", help="how many tokens of a query the model reads"
    )


def load_model(args: argparse.Namespace) -> ColBERT:
    """The model of --model, --backend and the lengths."""
    from mlx_colbert.model.colbert import ColBERT

    return ColBERT.load(
        args.model,
        backend=args.backend,
        document_length=args.document_length,
        query_length=args.query_length,
    )


def add_filter(parser: argparse.ArgumentParser, advice: str) -> None:
    """Add --filter."""
    parser.add_argument("--filter", metavar="EXPRESSION", help=f"{advice}: lang = 'en' and year >= 2020")


def filter_notes(store: Store, filter: str | None) -> list[str]:
    """Sentences that say why --filter may find nothing."""
    return [] if filter is None else store.filter_problems(filter)


def configurable(action: argparse.Action, key: str) -> None:
    """Let an option that is not given have the value of a setting, if there is one."""
    from mlx_colbert.configuration import KEYS

    if given := os.environ.get(KEYS[key].variable):
        # argparse converts it as a typed word.
        action.default, action.required = given, False


def add_full(parser: argparse.ArgumentParser) -> None:
    """Add --full."""
    parser.add_argument("--full", action="store_true", help="print whole passages")
