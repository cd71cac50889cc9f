"""Judgements (qrels) and runs as files: the formats of TREC and of BEIR."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.lines import id_of_row, is_id, read_lines
from mlx_colbert.evaluation.measures import MAX_RELEVANCE, Qrels, Run, ordered

__all__ = ["read_qrels", "read_run", "write_qrels", "write_run"]

_QRELS_ADVICE = (
    "Write query id, document id and relevance with tabs (BEIR), or query id, 0, document id and relevance "
    "(TREC)"
)
_RUN_ADVICE = "Write query id, Q0, document id, rank, score and a name"
# The last name of a header: BEIR's, and those that other programs write.
_RELEVANCE_NAMES = {"score", "relevance", "rel", "label"}


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """The judgements of a file: query id → document id → relevance.

    Args:
        path: a .tsv file of BEIR (three columns, with or without a header), a qrels file of TREC (four
            columns), or a .jsonl file of mteb: {"query-id", "corpus-id", "score"}. Each may be compressed
            (.gz).

    Raises:
        InputError: if a line is not a judgement, a pair is judged in two ways, or there is no judgement. The
            message has the line.
        OSError: if the file cannot be read.
    """
    qrels: dict[str, dict[str, int]] = {}
    rows = _rows_of_json if ".jsonl" in Path(path).suffixes else _rows_of_columns
    for number, query, document, score in rows(path):
        try:
            relevance = _whole(score)
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: the relevance {_shown(score)} is not a whole number. {_QRELS_ADVICE}."
            ) from error
        if abs(relevance) > MAX_RELEVANCE:
            raise InputError(
                f"{path}:{number}: the relevance is {_shown(score)}. Give at most {MAX_RELEVANCE:,}."
            )
        judged = qrels.setdefault(query, {})
        if judged.setdefault(document, relevance) != relevance:
            raise InputError(
                f"{path}:{number}: document {_shown(document)} is judged {relevance} for query "
                f"{_shown(query)}, and {judged[document]} in a line above. Remove one of them."
            )
    if not qrels:
        raise InputError(f"{path}: has no judgement. {_QRELS_ADVICE}.")
    return qrels


def _rows_of_columns(path: str | Path) -> Iterator[tuple[int, str, str, str]]:
    """The rows of a file with columns: line, query id, document id, relevance."""
    for number, line in read_lines(path):
        # With tabs, an id may have spaces.
        fields = line.split("\t") if line.count("\t") in (2, 3) else line.split()
        if number == 1 and fields[-1].strip().lower() in _RELEVANCE_NAMES:
            continue
        if len(fields) == 4:
            del fields[1]
        if len(fields) != 3 or not all(fields):
            raise InputError(f"{path}:{number}: is no judgement. {_QRELS_ADVICE}.")
        query, document, score = fields
        yield number, query, document, score


def _rows_of_json(path: str | Path) -> Iterator[tuple[int, str, str, str]]:
    """The rows of a file of JSON objects, in the same form."""
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
            yield number, id_of_row(row["query-id"]), id_of_row(row["corpus-id"]), str(row["score"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            example = '{"query-id": "q1", "corpus-id": "d1", "score": 1}'
            raise InputError(f"{path}:{number}: is no judgement. Write {example}.") from error


def _whole(score: str) -> int:
    """The whole number of a text. Programs for tables write 1.0 for 1."""
    value = float(score)
    if not value.is_integer():
        raise ValueError(score)
    return int(value)


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write judgements as a qrels file of TREC, with tabs between the columns.

    Raises:
        InputError: if an id is empty, or has a tab or a line break.
        OSError: if the file cannot be written.
    """
    rows = ((query, document, score) for query, judged in qrels.items() for document, score in judged.items())
    lines = [f"{_field(query)}\t0\t{_field(document)}\t{score}\n" for query, document, score in rows]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """The run of a TREC file: query id → document id → score, best first.

    The score decides the order, and of equal scores the greater id is first. trec_eval does not read the
    column of ranks either.

    Raises:
        InputError: if a line is not a row of a run, a document is given twice for a query, or there is no
            row. The message has the line.
        OSError: if the file cannot be read.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in read_lines(path):
        fields = line.split("\t") if line.count("\t") == 5 else line.split()
        try:
            query, _, document, _, text, _ = fields
            score = float(text)
        except ValueError as error:
            raise InputError(f"{path}:{number}: is no row of a run. {_RUN_ADVICE}.") from error
        if not math.isfinite(score):
            raise InputError(f"{path}:{number}: the score is {text}. Give a finite number.")
        hits = found.setdefault(query, {})
        if document in hits:
            raise InputError(
                f"{path}:{number}: query {_shown(query)} has document {_shown(document)} already. Remove one "
                "of them."
            )
        hits[document] = score
    if not found:
        raise InputError(f"{path}: has no row of a run. {_RUN_ADVICE}.")
    return {query: ordered(hits) for query, hits in found.items()}


def write_run(path: str | Path, run: Run, name: str) -> None:
    """Write a run as a TREC file, with tabs between the columns.

    trec_eval reads scores with the precision of float32, and so they are written. If the order of the run
    is not that of the scores, the ranks are written as scores.

    Args:
        path: the file.
        run: for each query its documents, best first.
        name: the name of the system, in the last column.

    Raises:
        InputError: if an id or the name is empty, or has a tab or a line break.
        OSError: if the file cannot be written.
    """
    lines = []
    for query, hits in run.items():
        scores = {document: float(np.float32(score)) for document, score in hits.items()}
        if list(ordered(scores)) != list(hits):
            scores = {document: float(len(hits) - place) for place, document in enumerate(hits)}
        lines += [
            f"{_field(query)}\tQ0\t{_field(document)}\t{rank}\t{score!r}\t{_field(name)}\n"
            for rank, (document, score) in enumerate(scores.items(), start=1)
        ]
    Path(path).write_text("".join(lines), encoding="utf-8")


def _shown(text: str) -> str:
    """A text of a file in an error message: in quotes, and not too long."""
    return reprlib.repr(text)


def _field(text: str) -> str:
    if is_id(text):
        return text
    raise InputError(
        f"{_shown(text)} cannot be written to a file: it is empty, or has a tab or a line break."
    )
