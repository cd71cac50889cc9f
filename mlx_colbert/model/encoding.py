"""Token embeddings from tokens: the encoder and the projection, one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from mlx_colbert.kernels import EncoderOps, Params
from mlx_colbert.model.batching import ahead, batches, joined, windows
from mlx_colbert.model.config import ModelConfig
from mlx_colbert.model.projection import project
from mlx_colbert.model.tokenizer import TokenizedTexts
from mlx_colbert.progress import shown
from mlx_colbert.types import Array, TokenEmbeddings

__all__ = ["encoded", "encoded_lists"]


def encoded(
    config: ModelConfig,
    params: Params,
    ops: EncoderOps,
    texts: TokenizedTexts,
    advance: Callable[[int, int], Any],
) -> TokenEmbeddings:
    """Token embeddings of N tokenised texts, in order. Values that are not finite are possible.

    Args:
        config: the settings of the model.
        params: its weights, as arrays of the backend.
        ops: the kernels of the backend.
        texts: the tokens.
        advance: called after each batch, with the number of texts that the batch began, and of tokens that
            were computed, with padding.
    """
    rows, lengths = texts.rows, texts.row_lengths
    kept = np.array([int(row.scored.sum()) for row in rows], dtype=np.int64)
    vectors = TokenEmbeddings(np.empty((int(kept.sum()), config.dim), np.float32), kept)
    first_rows = np.cumsum(texts.n_rows) - texts.n_rows
    begins = np.isin(np.arange(len(rows)), first_rows)

    def vectors_of(batch: tuple[Array, int]) -> Array:
        members, width = batch
        ids = np.zeros((len(members), width), np.int32)
        attended = np.zeros((len(members), width), bool)
        for number, member in enumerate(members):
            ids[number, : lengths[member]] = rows[member].ids
            attended[number, : rows[member].n_attended] = True
        hidden = config.encoder.encode(ops, params, ids, attended)
        return ops.to_numpy(project(ops, params, config.projection, hidden))

    plan = batches(lengths, ops, texts.max_length)
    with closing(ops.mapped(vectors_of, plan)) as found:
        for (members, width), batch in zip(plan, found, strict=True):
            for number, member in enumerate(members):
                vectors[int(member)][:] = batch[number, : lengths[member]][rows[member].scored]
            advance(int(begins[members].sum()), len(members) * width)
    if len(rows) == len(texts.n_rows):
        return vectors
    return TokenEmbeddings(vectors.vectors, np.add.reduceat(kept, first_rows))


def encoded_lists(
    texts: Sequence[str],
    tokenize: Callable[[list[str]], TokenizedTexts],
    encode: Callable[..., TokenEmbeddings],
    dim: int,
    *,
    show_progress: bool | None,
) -> TokenEmbeddings:
    """Token embeddings of any number of texts. A thread tokenises the next texts while the last are encoded.

    Args:
        texts: N checked texts.
        tokenize: makes the tokens of consecutive texts.
        encode: makes token embeddings from these, and calls its second argument after each batch.
        dim: D of the token embeddings.
        show_progress: None shows a bar on a terminal, if the call takes longer than a second.
    """
    tokenized = map(tokenize, windows(texts, len))
    # A short list takes less than a second. The import of a progress bar, or a thread, would cost more.
    if len(texts) < 64 and not show_progress:
        return joined([encode(tokens) for tokens in tokenized], dim)
    done = 0
    with shown(show=show_progress) as progress, closing(ahead(tokenized)) as found:

        def advance(n_texts: int, _: int) -> None:
            nonlocal done
            done += n_texts
            progress("encoding", done, len(texts))

        return joined([encode(tokens, advance) for tokens in found], dim)
