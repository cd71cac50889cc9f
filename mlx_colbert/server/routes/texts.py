"""Texts of a request: how many, how long, and their token embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from mlx_colbert.counts import counted
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import Task
from mlx_colbert.model.tokenizer import TokenizedTexts
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.settings import Limits
from mlx_colbert.types import TokenEmbeddings

__all__ = ["Usage", "check_texts", "encoded", "n_tokens_of"]


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0

    @classmethod
    def of(cls, n_tokens: int) -> Usage:
        """The usage of a number of tokens."""
        return cls(prompt_tokens=n_tokens, total_tokens=n_tokens)


def check_texts(texts: Sequence[str], limits: Limits, name: str) -> None:
    """Refuse texts that are too many or too long.

    Raises:
        Problem: 422, if so.
    """
    if len(texts) > limits.n_texts:
        raise Problem(422, f"{name}: {counted(len(texts), 'text')}; at most {limits.n_texts:,} are allowed.")
    longest = max(range(len(texts)), key=lambda number: len(texts[number]), default=None)
    if longest is not None and len(texts[longest]) > limits.text_chars:
        found = f"text {longest} has {len(texts[longest]):,} characters"
        raise Problem(422, f"{name}: {found}; at most {limits.text_chars:,} are allowed. Split it.")


def encoded(
    model: ColBERT, texts: Sequence[str], task: Task, limits: Limits
) -> tuple[TokenEmbeddings, TokenizedTexts]:
    """Token embeddings of texts, and the tokens that the model read.

    Raises:
        Problem: 422, if there are too many tokens.
    """
    tokens = model.tokenize_queries(texts) if task == "query" else model.tokenize_documents(texts)
    n_tokens = n_tokens_of(tokens)
    if n_tokens > limits.n_tokens:
        detail = f"The texts have {n_tokens:,} tokens; at most {limits.n_tokens:,} are allowed. Send fewer."
        raise Problem(422, detail)
    return model.encode_tokenized(tokens), tokens


def n_tokens_of(tokens: TokenizedTexts) -> int:
    """The number of tokens."""
    return int(tokens.row_lengths.sum())
