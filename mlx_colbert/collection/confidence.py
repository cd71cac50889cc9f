"""How sure it is that a passage has to do with a query: a number in [0, 1] that all models share.

1. *Evidence*. A word of the query that says something is far from most tokens of a passage, and near to the
   token that answers it. A function word is near to everything. So each token of the query counts by how far
   its best match is above the middle of all tokens of the passage, relative to the largest possible distance,
   and it weighs the more the farther that middle is. 1: each such word is in the passage; 0: none is.
2. *Calibration*. Unrelated words have some evidence too, and how much depends on the model. It is measured
   once for each collection with random queries. The median of their best hits is taken, because a collection
   may have a list of just such words.
3. *Confidence*. A logistic curve through what was measured: of the hits with a confidence of 0.6, about 60 %
   were answers. `examples/bench/confidence.py` measures it; its README has the table.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlx_colbert.collection.collection import Collection
from mlx_colbert.collection.files import write_file
from mlx_colbert.collection.matches import medians, word_numbers, word_rows
from mlx_colbert.errors import InputError
from mlx_colbert.regular_files import read_regular
from mlx_colbert.types import Array, Hit, TokenEmbeddings

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT

__all__ = [
    "CALIBRATION_NAME",
    "THRESHOLD",
    "Asked",
    "Calibration",
    "calibrate",
    "calibration_of",
    "evidence",
    "is_relevant",
    "least_confidence",
    "random_evidence",
]

# Below this, a hit is noise. Over four collections, 4 % of the questions with an answer get none
# (examples/bench/README.md).
THRESHOLD = 0.1
CALIBRATION_NAME = "calibration.json"
_MOST_BYTES = 4096
# The logistic curve, fitted to questions whose answer is in a collection and others whose answer is not.
_SLOPE, _MIDDLE = 9.87, 0.525
_N_QUERIES = 24
_WORDS_PER_QUERY = (3, 8)
_N_HITS = 9
# A collection that has become so many times larger or smaller is measured again.
_GROWTH = 4
# A model whose random queries have more evidence than this cannot tell anything.
_LARGEST_MEAN = 0.9
# Many searches at once would all measure the same.
_measuring = threading.Lock()
# A passage with fewer rows is too short to tell what a typical similarity is.
_TYPICAL_ROWS = 16
# Words that have little to do with each other. Few collections are about many of them.
_WORDS = """anchor apricot attic axle balcony banjo barley basket beetle bishop blanket brick bronze bucket
butter cabin cactus candle canyon captain cedar cello chalk cherry chimney circus clay comet copper coral
cotton cradle cricket crystal curtain dagger desert diamond dolphin donkey dragon eagle ember falcon feather
ferry fiddle flute forest fountain garlic ginger glacier goblet granite hammer harbor hazel helmet honey
hornet island ivory jacket jungle kettle kitten ladder lantern lemon lizard magnet maple marble meadow mirror
monkey mountain mustard needle nutmeg oyster paddle palace parrot pebble pepper pigeon pillow planet pocket
potato pumpkin puppet quartz rabbit raven ribbon saddle sailor salmon scarf shovel silver sparrow spider
squirrel statue sugar tailor temple thunder ticket tiger tractor trumpet tunnel turtle umbrella valley velvet
violin walnut whistle willow window wizard zebra""".split()


def evidence(similarities: Array, typical: Array | None = None) -> float:
    """How much of what a query says is in a passage: 1 for all of it, about 0 for nothing of it.

    Args:
        similarities: (Q, N) float, of the Q rows of the query that stand for words and the N rows of the
            passage.
        typical: (Q, M) float, of the same rows and of typical rows, as `Asked.typical` returns them. None:
            the rows of the passage are typical.

    >>> round(evidence(np.array([[0.9, 0.1, 0.1], [0.2, 0.2, 0.2]])), 2)
    0.5
    """
    middle = medians(similarities if typical is None else typical)
    # A row that is equal to all rows of the passage says nothing.
    room = np.maximum(1 - middle, 1e-3)
    found = np.maximum(similarities.max(axis=1) - middle, 0) / room
    return float((room**2 * found).sum() / (room**2).sum())


@dataclass(frozen=True, eq=False)
class Asked:
    """A query as a model reads it.

    Attributes:
        query: the query.
        model: the model.
        vectors: (Q, D) float32, its token embeddings.
    """

    query: str
    model: ColBERT
    vectors: Array

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The place in the query of each of the Q rows."""
        return self.model.token_spans(self.query, "query")

    @cached_property
    def word_rows(self) -> Array:
        """(Q,) bool, the rows that stand for words."""
        return word_rows(self.query, self.spans)

    @property
    def word_numbers(self) -> list[int]:
        """The number of the word of each row that stands for one."""
        spans = [span for span, is_word in zip(self.spans, self.word_rows, strict=True) if is_word]
        return word_numbers(self.query, spans)

    def similarities(self, passage: Array) -> tuple[Array, Array]:
        """The similarities of the rows for words to the rows of a passage, and to typical rows.

        Args:
            passage: (N, D), its token embeddings. Few of them tell nothing of what is typical: then those of
                unrelated words are added.
        """
        words = self.vectors[self.word_rows]
        found = words @ passage.T
        return found, found if len(passage) >= _TYPICAL_ROWS else np.hstack([found, self._to_unrelated])

    @cached_property
    def _to_unrelated(self) -> Array:
        unrelated = self.model.encode_document(" ".join(_WORDS[: 2 * _TYPICAL_ROWS]))
        found: Array = self.vectors[self.word_rows] @ unrelated.T
        return found


@dataclass(frozen=True)
class Calibration:
    """What the evidence of random queries is.

    Attributes:
        fingerprint: the fingerprint of the model.
        n_passages: number of passages of the collection then.
        mean: the mean evidence of random queries. The default is that of answerai-colbert-small-v1.
    """

    fingerprint: str = ""
    n_passages: int = 0
    mean: float = 0.26

    def fits(self, model: ColBERT, n_passages: int) -> bool:
        """Whether it is that of a model, and of a collection of about so many passages."""
        is_near = self.n_passages / _GROWTH < n_passages + 1 <= _GROWTH * (self.n_passages + 1)
        return self.fingerprint == model.fingerprint and is_near

    def confidence(self, evidence: float) -> float:
        """The confidence for an evidence, in [0, 1].

        >>> [round(Calibration().confidence(value), 2) for value in (0.26, 0.5, 0.7, 0.9)]
        [0.01, 0.12, 0.67, 0.97]
        """
        relative = (evidence - self.mean) / (1 - self.mean)
        return 1 / (1 + math.exp(-_SLOPE * (max(-1.0, min(relative, 1.0)) - _MIDDLE)))


def least_confidence(given: float | None, mode: str | None = None, *, all: bool = False) -> float | None:
    """The confidence below which a search leaves hits out. None: it leaves none out.

    Args:
        given: what the user wants. None: `THRESHOLD`.
        mode: how hits are ranked, as for a search. A keyword search has no confidence.
        all: whether the user wants all hits.

    Raises:
        InputError: if it is not a number of 0 to 1, or there is no confidence.
    """
    if given is not None and not 0 <= given <= 1:
        raise InputError(f"min_score is {given}. Give a number of 0 to 1.")
    if given is not None and mode == "keyword":
        raise InputError(
            "min_score needs a confidence, which a keyword search does not have. Leave it out, or choose "
            "another mode."
        )
    return None if all else THRESHOLD if given is None else given


def is_relevant(hit: Hit) -> bool:
    """Whether a hit of a search in collections is more than noise. A hit without a confidence is."""
    confidence = getattr(hit, "confidence", None)
    return confidence is None or confidence >= THRESHOLD


def calibration_of(collection: Collection, model: ColBERT) -> Calibration:
    """The calibration of a collection. It is measured at the first search, and when much is new.

    Raises:
        IndexStoreError: if the index cannot be used.
    """
    path = collection.place.path / CALIBRATION_NAME
    n_passages = len(collection.index)
    known = _read(path)
    if known is not None and known.fits(model, n_passages):
        return known
    with _measuring:
        # Another thread may have measured it while this one waited.
        if (done := _read(path)) is not None and done.fits(model, n_passages):
            return done
        measured = calibrate(collection, model)
        try:
            write_file(path, json.dumps(asdict(measured)).encode())
        except OSError:
            # It is measured again next time.
            pass
        return measured


def calibrate(collection: Collection, model: ColBERT) -> Calibration:
    """Measure the evidence of random queries in a collection.

    Raises:
        IndexStoreError: if the index cannot be used.
    """
    index = collection.index

    def best(queries: TokenEmbeddings) -> Iterator[Iterable[Array]]:
        # Together, because each search reads all vectors.
        for hits in index.search(queries, _N_HITS):
            yield index.embeddings([hit.doc_id for hit in hits])

    return Calibration(model.fingerprint, len(index), random_evidence(model, best))


def random_evidence(model: ColBERT, best: Callable[[TokenEmbeddings], Iterable[Iterable[Array]]]) -> float:
    """The mean evidence of random queries. That of a query is the median of its best passages.

    Args:
        model: the model.
        best: for each query, returns the token embeddings (N, D) of each of its best passages.
    """
    chosen = random.Random(0)
    queries = [" ".join(chosen.sample(_WORDS, chosen.randint(*_WORDS_PER_QUERY))) for _ in range(_N_QUERIES)]
    values = []
    encoded = model.encode_query(queries, show_progress=False)
    for query, vectors, passages in zip(queries, encoded, best(encoded), strict=True):
        asked = Asked(query, model, vectors)
        if found := [evidence(*asked.similarities(passage)) for passage in passages]:
            values.append(medians(np.array([found]))[0])
    mean = float(np.mean(values)) if values else Calibration.mean
    return min(max(mean, 0.0), _LARGEST_MEAN)


def _read(path: Path) -> Calibration | None:
    try:
        values = json.loads(read_regular(path, _MOST_BYTES))
        known = Calibration(str(values["fingerprint"]), int(values["n_passages"]), float(values["mean"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return known if 0 <= known.mean <= _LARGEST_MEAN else None
