"""The command line with a model for which a word is near to itself, and far from all others."""

from __future__ import annotations

import hashlib
import re
import sys
import typing

import numpy as np

from mlx_colbert.cli import main
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.tokenizer import TokenizedRow, TokenizedTexts
from mlx_colbert.types import TokenEmbeddings

_WORD = re.compile(r"\w+")
_MOST = 200


def _vectors(words):
    # Every text has a row, also one without words.
    rows = []
    for word in words or ["-"]:
        seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "big")
        rows.append(np.random.default_rng(seed).standard_normal(96).astype(np.float32))
    return np.stack([row / np.linalg.norm(row) for row in rows])


class WordModel:
    """One unit vector for each word, whatever its case."""

    dim = 96
    lengths: typing.ClassVar[dict[str, int]] = {}
    revision = None
    fingerprint = "words"

    def __init__(self, source):
        self.source = source

    def tokenize_documents(self, texts, *, on_overflow="truncate", names=None):
        rows = [_WORD.findall(text)[:_MOST] or ["-"] for text in texts]
        made = [TokenizedRow(np.array(row), len(row), None) for row in rows]
        return TokenizedTexts(made, np.ones(len(rows), int), 0, _MOST)

    def tokenize_queries(self, queries):
        return self.tokenize_documents(queries)

    def encode_tokenized(self, texts, advance=lambda n_texts, n_tokens: None):
        advance(len(texts.rows), int(texts.row_lengths.sum()))
        return TokenEmbeddings.pack([_vectors(row.ids.tolist()) for row in texts.rows])

    def encode_query(self, texts, *, show_progress=None):
        if isinstance(texts, str):
            return _vectors(_WORD.findall(texts)[:_MOST])
        return TokenEmbeddings.pack([self.encode_query(text) for text in texts])

    def encode_document(self, text, *, on_overflow="truncate", show_progress=None):
        return self.encode_query(text)

    def fits(self, document):
        return len(_WORD.findall(document)) <= _MOST

    def token_spans(self, text, task, *, on_overflow="truncate"):
        return [match.span() for match in _WORD.finditer(text)][:_MOST] or [(0, 0)]

    def score_divisors(self, queries):
        return np.ones(len(queries), np.float32)


ColBERT.load = lambda source, *, backend="numpy", revision=None, **lengths: WordModel(str(source))

if __name__ == "__main__":
    sys.exit(main())
