"""A stand-in for ColBERT that needs no checkpoint: a fixed random vector per word."""

import hashlib
import re

import numpy as np

from mlx_colbert.model.tokenizer import TokenizedRow, TokenizedTexts
from mlx_colbert.types import Hit, TokenEmbeddings


def word_vector(word):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
    return vector / np.linalg.norm(vector)


class WordModel:
    """One unit vector per word: the same word scores 1, others less."""

    dim = 16
    revision = None

    def __init__(self, fingerprint="words-1", source="word-model", lengths=None):
        self.lengths = lengths or {}
        self.fingerprint = fingerprint
        self.source = source
        self.encoded = []

    def tokenize_documents(self, texts, *, on_overflow="truncate", names=None):
        counts = [len(text.split()) for text in texts]
        rows = [TokenizedRow(np.array(text.split()), n, None) for text, n in zip(texts, counts, strict=True)]
        return TokenizedTexts(rows, np.ones(len(rows), int), sum(n > 200 for n in counts), 200)

    def tokenize_queries(self, queries):
        rows = [TokenizedRow(np.array(text.split()), len(text.split()), None) for text in queries]
        n_truncated = sum(len(row.ids) > 100 for row in rows)
        return TokenizedTexts(rows, np.ones(len(rows), int), n_truncated, 100)

    def encode_tokenized(self, texts, advance=lambda n_texts, n_tokens: None):
        if any("poison" in row.ids for row in texts.rows):
            raise RuntimeError("cannot encode poison")
        self.encoded += [" ".join(row.ids) for row in texts.rows]
        advance(len(texts.rows), int(texts.row_lengths.sum()))
        return TokenEmbeddings.pack([np.stack([word_vector(word) for word in row.ids]) for row in texts.rows])

    def encode_query(self, texts, *, show_progress=None):
        if isinstance(texts, str):
            return np.stack([word_vector(word) for word in texts.split()])
        return TokenEmbeddings.pack([self.encode_query(text) for text in texts])

    def fits(self, document):
        return len(document.split()) <= 200

    def encode_document(self, text, *, on_overflow="truncate", show_progress=None):
        return self.encode_query(text)

    def token_spans(self, text, task, *, on_overflow="truncate"):
        return [match.span() for match in re.finditer(r"\S+", text)]

    def score_divisors(self, queries):
        return np.ones(len(queries), np.float32)

    def rerank(self, query, documents, k=None, *, doc_ids=None, on_overflow="truncate"):
        vectors = self.encode_query(query)
        scores = [float((vectors @ self.encode_query(text).T).max(1).sum()) for text in documents]
        order = np.argsort(-np.array(scores), kind="stable")[:k]
        return [Hit(rank, scores[i], doc_ids[i], documents[i]) for rank, i in enumerate(order, start=1)]
