"""Datasets in BEIR's layout: a folder with corpus.jsonl, queries.jsonl and qrels/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.dataset import Dataset
from mlx_colbert.evaluation.judgements import read_qrels
from mlx_colbert.evaluation.lines import file_or_gz, id_of_row, read_lines

__all__ = ["read_beir"]

_LAYOUT = "corpus.jsonl, queries.jsonl and qrels/test.tsv"
# Folders that are named in an error.
_NAMED = 3


def read_beir(
    folder: str | Path, *, split: str = "test", allow_unknown: bool = False, max_queries: int | None = None
) -> Dataset:
    """The dataset of a folder in BEIR's layout.

    A row of corpus.jsonl is {"_id", "title", "text"}, a row of queries.jsonl {"_id", "text"}. qrels/test.tsv
    has the judgements, or qrels/test.jsonl (mteb). All may be compressed (.gz). An id may be a whole number.
    A document is its title, a space, its text.

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
        what = "is a file. If it is an archive, unpack it" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {what}. Give a folder with {_LAYOUT}.")
    corpus, queries = (file_or_gz(folder, f"{name}.jsonl") for name in ("corpus", "queries"))
    if corpus is None:
        raise InputError(f"{folder}: has no corpus.jsonl or corpus.jsonl.gz. {_hint(folder)}")
    if queries is None:
        raise InputError(f"{folder}: has no queries.jsonl or queries.jsonl.gz.")
    qrels = read_qrels(_qrels_file(folder, split))
    return Dataset.check(
        folder.resolve().name,
        dict(_texts(corpus)),
        dict(_texts(queries)),
        qrels,
        allow_unknown=allow_unknown,
        max_queries=max_queries,
    )


def _hint(folder: Path) -> str:
    """What to do about a folder without a corpus."""
    inner = sorted(path.parent.name for path in folder.glob("*/corpus.jsonl*"))
    if inner:
        more = ", …" if len(inner) > _NAMED else ""
        return f"Datasets are in its folders {', '.join(inner[:_NAMED])}{more}. Give these."
    if (folder / "collection.tsv").exists():
        return (
            "Datasets with a collection.tsv are read by ir_datasets: irds:msmarco-passage/dev/small, "
            "irds:lotte/lifestyle/test/search."
        )
    return f"Give a folder with {_LAYOUT}, or irds:NAME for a dataset of ir_datasets."


def _qrels_file(folder: Path, split: str) -> Path:
    file = file_or_gz(folder / "qrels", f"{split}.tsv", f"{split}.jsonl")
    if file is None:
        there = {path.name.split(".")[0] for path in (folder / "qrels").glob("*.*")}
        raise InputError(
            f"{folder}: has no judgements qrels/{split}.tsv. Splits that are there: "
            f"{', '.join(sorted(there)) or 'none'}."
        )
    return file


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """The ids of a file of rows, each with title and text."""
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        try:
            row: Any = json.loads(line)
            text_id, text, title = id_of_row(row["_id"]), row["text"], row.get("title") or ""
            if not isinstance(text, str) or not isinstance(title, str):
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
