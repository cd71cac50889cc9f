"""How well a search finds the files that answer a user's own questions."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from mlx_colbert.checks import check_k
from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.confidence import is_relevant
from mlx_colbert.collection.lookup import PlaceInFile, find_file
from mlx_colbert.collection.search import search
from mlx_colbert.documents.decoding import decode
from mlx_colbert.documents.file_passages import read_file
from mlx_colbert.errors import InputError
from mlx_colbert.evaluation.measures import check_measures, measured
from mlx_colbert.retriever.retriever import Mode

__all__ = ["Benchmark", "ModeResult", "Question", "bench", "read_questions"]

_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Question:
    """A question, and the files that answer it.

    Attributes:
        query: the question.
        files: names of files. Empty: nothing in the collections answers it.
    """

    query: str
    files: tuple[str, ...]


@dataclass
class ModeResult:
    """What one mode of search has reached.

    Attributes:
        recall: the mean share of the files of a question that are among the first k hits.
        mrr: the mean of 1 / rank of the first file that answers. 0 for a question without one.
        ndcg: the mean nDCG of the first k files.
        silent_rightly: share of the questions without an answer for which nothing relevant is found. None:
            there are no such questions, or the mode has no confidence.
        silent_wrongly: share of the questions with an answer for which nothing relevant is found.
        ms: the median time of a search, in milliseconds.
        missed: the questions with an answer for which no file is found.
    """

    recall: float
    mrr: float
    ndcg: float
    silent_rightly: float | None
    silent_wrongly: float | None
    ms: float
    missed: list[str] = field(default_factory=list)


@dataclass
class Benchmark:
    """The results of all modes.

    Attributes:
        n_questions: number of questions.
        n_without_answer: number of those that nothing answers.
        k: the number of hits of a search.
        unknown: files of the questions that are in none of the collections.
        modes: mode → its results.
    """

    n_questions: int
    n_without_answer: int
    k: int
    unknown: list[str]
    modes: dict[str, ModeResult]


def read_questions(path: Path) -> list[Question]:
    """The questions of a file: a JSON object in each line, with "query" and "files".

    Raises:
        InputError: if the file is not like that. The message has the line.
        OSError: if it cannot be read.
    """
    questions = []
    for number, line in enumerate(
        decode(read_file(path, max_bytes=_MAX_BYTES).data, str(path)).split("\n"), 1
    ):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query, files = row["query"], row["files"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(_wrong(path, number)) from error
        files = [files] if isinstance(files, str) else files
        if not isinstance(query, str) or not query.strip() or not isinstance(files, list):
            raise InputError(_wrong(path, number))
        if not all(isinstance(name, str) and name for name in files):
            raise InputError(_wrong(path, number))
        questions.append(Question(query, tuple(files)))
    if not questions:
        raise InputError(f"{path}: has no question.")
    return questions


def _wrong(path: Path, number: int) -> str:
    example = '{"query": "how do bees dance", "files": ["notes/bees.md"]}'
    return f"{path}:{number}: is not a question. Write a line such as {example}."


def bench(collections: Sequence[Collection], questions: Sequence[Question], k: int = 10) -> Benchmark:
    """Search for each question in each mode, and compare the hits with the files that answer it.

    Args:
        collections: the collections to search.
        questions: one question or more.
        k: the number of hits of a search.

    Raises:
        InputError: if a file of a question is in several of the collections under the same name.
        CollectionNotFoundError: if none of the collections has an index.
        CheckpointError: if a model cannot be loaded.
        MissingExtraError: if the extra "eval" is not installed.
    """
    k = check_k(k)
    check_measures(_measures(k))
    known: dict[str, tuple[str, str] | None] = {}
    for name in {name for question in questions for name in question.files}:
        try:
            collection, uri = find_file(collections, PlaceInFile(name))
            known[name] = collection.name, uri
        except InputError as error:
            if "there are" in str(error):
                raise
            known[name] = None
    # The first search loads the model.
    search(collections, questions[0].query, k)
    modes = {mode: _measured(collections, questions, known, k, mode) for mode in get_args(Mode)}
    unknown = sorted(name for name, file in known.items() if file is None)
    return Benchmark(len(questions), sum(not item.files for item in questions), k, unknown, modes)


def _measured(
    collections: Sequence[Collection],
    questions: Sequence[Question],
    known: dict[str, tuple[str, str] | None],
    k: int,
    mode: Mode,
) -> ModeResult:
    times = []
    silent: dict[bool, list[bool]] = {True: [], False: []}
    # A number for each file, as its id.
    numbers: dict[tuple[str, str], str] = {}
    run: dict[str, dict[str, float]] = {}
    qrels: dict[str, dict[str, int]] = {}
    for number, question in enumerate(questions):
        begun = time.perf_counter()
        hits = search(collections, question.query, k, mode=mode, min_confidence=None).hits
        times.append((time.perf_counter() - begun) * 1000)
        silent[bool(question.files)].append(not any(map(is_relevant, hits)))
        if not question.files:
            continue
        found = dict.fromkeys((hit.collection, hit.source or "") for hit in hits)
        # A file that is in no collection cannot be found, and counts.
        wanted = {known[name] or ("", name) for name in question.files}
        for file in (*found, *wanted):
            numbers.setdefault(file, str(len(numbers)))
        run[str(number)] = {numbers[file]: -float(place) for place, file in enumerate(found)}
        qrels[str(number)] = {numbers[file]: 1 for file in wanted}
    names = _measures(k)
    of_measures = measured(run, qrels, names) if qrels else {name: {} for name in names}
    recall, mrr, ndcg = (_mean(list(of_measures[name].values())) or 0.0 for name in names)
    has_confidence = mode != "keyword"
    return ModeResult(
        recall,
        mrr,
        ndcg,
        _mean(silent[False]) if has_confidence else None,
        _mean(silent[True]) if has_confidence else None,
        statistics.median(times),
        [questions[int(number)].query for number, value in of_measures[names[0]].items() if not value],
    )


def _measures(k: int) -> list[str]:
    """Recall, MRR and nDCG."""
    return [f"R@{k}", f"RR@{k}", f"nDCG@{k}"]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
