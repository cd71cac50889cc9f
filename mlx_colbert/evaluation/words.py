"""BM25 of whole documents, by bm25s: the baseline that needs no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mlx_colbert.errors import MissingExtraError

__all__ = ["Bm25", "words"]

# The BM25 of BEIR's Anserini baseline.
_K1, _B = 0.9, 0.4
# A word: a run of letters and digits. Each ideograph and kana is a word, because Chinese and Japanese have no
# spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case. There is no stemming and no list of stop words.

    >>> words("Né en 1990, 東京")
    ['né', 'en', '1990', '東', '京']
    """
    return _WORD.findall(text.lower())


class Bm25:
    """An index of words.

    Attributes:
        n_bytes: the size of its arrays.

    Args:
        texts: N texts.

    Raises:
        MissingExtraError: if bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError("BM25", "eval") from error
        self._n_texts = len(texts)
        listed = [words(text) for text in texts]
        # bm25s fails if no text has a word.
        self._index = bm25s.BM25(k1=_K1, b=_B) if any(listed) else None
        self.n_bytes = 0
        if self._index is not None:
            self._index.index(listed, show_progress=False)
            arrays = (self._index.scores[name] for name in ("data", "indices", "indptr"))
            self.n_bytes = sum(array.nbytes for array in arrays)

    def best(self, query: str, k: int) -> list[tuple[int, float]]:
        """The k best texts that share a word with the query: position and score, best first."""
        known = [word for word in words(query) if self._index and word in self._index.vocab_dict]
        if not known or self._index is None:
            return []
        scores = self._index.get_scores(known)
        k = min(k, self._n_texts)
        first = np.argpartition(-scores, k - 1)[:k]
        best = first[np.argsort(-scores[first], kind="stable")]
        return [(int(place), float(scores[place])) for place in best if scores[place] > 0]
