"""The words of a passage that answer the words of a query."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from mlx_colbert.collection.hits import Match
from mlx_colbert.index.catalog.keywords import words
from mlx_colbert.types import Array

__all__ = ["keyword_matches", "matches", "medians", "shading", "word_numbers", "word_rows", "word_spans"]

# A word: letters, digits, and the signs within names and numbers.
_WORD = re.compile(r"\w+(?:['’.\-+#]\w+)*[+#]*")
# A token of a function word such as "the" is near to most tokens of a passage, so its best match says
# nothing. A token that says something is nearer to its match than to the middle of all tokens by so many
# standard deviations: 2.2 and more for "treated", 1.5 and less for "why" and "the" (answerai-colbert-small).
_MIN_DEVIATIONS = 1.8
# A token that is nearly as near as the best one is a match too.
_NEARLY = 0.8


def word_rows(text: str, spans: Sequence[tuple[int, int]]) -> Array:
    """The rows (n,) bool of the token embeddings of a query that stand for letters or digits.

    All rows, if there are none: a query of signs.

    Args:
        text: the query.
        spans: the place in the text of each row.
    """
    found = np.array([any(map(str.isalnum, text[start:end])) for start, end in spans], np.bool_)
    return found if found.any() else np.ones(len(spans), np.bool_)


def keyword_matches(query: str, text: str) -> list[Match]:
    """The words of a text that are also in a query, whatever their case and accents.

    >>> [match[:2] for match in keyword_matches("Green tea", "The tea is green.")]
    [(4, 7), (11, 16)]
    """
    numbers: dict[str, int] = {}
    for number, (start, end) in enumerate(word_spans(query)):
        for word in words(query[start:end]):
            numbers.setdefault(word, number)
    found = []
    for start, end in word_spans(text):
        known = [numbers[word] for word in words(text[start:end]) if word in numbers]
        if known:
            found.append(Match(start, end, 1.0, known[0]))
    return found


def word_spans(text: str) -> list[tuple[int, int]]:
    """The place of each word of a text.

    >>> word_spans("C++ isn't 1.2")
    [(0, 3), (4, 9), (10, 13)]
    """
    return [word.span() for word in _WORD.finditer(text)]


def word_numbers(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the word that each token of a query is in, from 0.

    Args:
        text: the query.
        spans: the place in the text of each token.

    >>> word_numbers("tea kettles", [(0, 3), (4, 8), (8, 11)])
    [0, 1, 1]
    """
    ends = [end for _, end in word_spans(text)]
    return [bisect_right(ends, start) for start, _ in spans]


def medians(rows: Array) -> Array:
    """The median of each row of (Q, M) floats, M >= 1. `np.median` imports numpy.ma, which takes 10 ms.

    >>> medians(np.array([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])).tolist()
    [2.0, 5.0]
    """
    ordered, m = np.sort(rows, axis=1), rows.shape[1]
    middle: Array = (ordered[:, (m - 1) // 2] + ordered[:, m // 2]) / 2
    return middle


def matches(
    text: str,
    spans: Sequence[tuple[int, int]],
    similarities: Array,
    typical: Array,
    query_words: Sequence[int],
    *,
    first: int = 0,
) -> list[Match]:
    """The words of a passage that answer a word of a query, in their order.

    Args:
        text: the text that the model read.
        spans: the place in the text of each of the N rows of the passage.
        similarities: (Q, N) float, of the rows of the query that stand for words.
        typical: (Q, M) float, of the same rows of the query and of typical rows.
        query_words: the number of the word that each of the Q rows is in.
        first: the character that the text of the passage begins at. Words before it are headings.
    """
    middle, deviation = medians(typical)[:, None], typical.std(axis=1, keepdims=True)
    deviations = (similarities - middle) / np.maximum(deviation, 1e-6)
    best = deviations.max(axis=1, keepdims=True)
    answers = (deviations >= _MIN_DEVIATIONS) & (deviations >= _NEARLY * best)
    return _words(text, spans, np.where(answers, similarities, -np.inf), query_words, first)


def shading(
    text: str,
    spans: Sequence[tuple[int, int]],
    similarities: Array,
    typical: Array,
    query_words: Sequence[int],
    *,
    first: int = 0,
) -> list[Match]:
    """How much each word of a passage answers the query, in their order, and which word of it the most.

    The similarity of each is relative, in [0, 1]. 0: it is no nearer to the query than a typical row is.
    1: it is the word of the query that is farthest from typical rows. So "the" is pale, and shades of
    different passages can be compared.

    Args:
        text: as for `matches`.
        spans: as for `matches`.
        similarities: as for `matches`.
        typical: as for `matches`.
        query_words: as for `matches`.
        first: as for `matches`.
    """
    middle = medians(typical)[:, None]
    relative = (similarities - middle) / max(float((1 - middle).max()), 1e-3)
    return _words(text, spans, np.clip(relative, 0, 1), query_words, first)


def _words(
    text: str, spans: Sequence[tuple[int, int]], strengths: Array, query_words: Sequence[int], first: int
) -> list[Match]:
    """The best of the (Q, N) strengths for each word of a passage. -inf is none."""
    rows, strength = strengths.argmax(axis=0).tolist(), strengths.max(axis=0).tolist()
    found: list[Match] = []
    ahead = _WORD.finditer(text, first)
    word = next(ahead, None)
    for (start, end), row, value in sorted(zip(spans, rows, strength, strict=True)):
        while word is not None and word.end() <= start:
            word = next(ahead, None)
        if word is None:
            break
        if value > -np.inf and start < end and word.start() < end:
            match = Match(word.start() - first, word.end() - first, value, query_words[row])
            if found and found[-1].start == match.start:
                match = max(match, found.pop(), key=lambda item: item.similarity)
            found.append(match)
    return found
