"""Passages into an index: what it holds already is skipped, the rest encoded and committed in windows.

::

    passages ── compare ── tokenise ──▶ encode ── pool ── commit      a window of passages at a time
             a thread, one window ahead
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields
from typing import Any

from mlx_colbert.documents.passage import Passage
from mlx_colbert.index import Index
from mlx_colbert.model import batching
from mlx_colbert.model.batching import ahead, windows
from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.config import OnOverflow
from mlx_colbert.model.pooling import pool
from mlx_colbert.model.tokenizer import TokenizedTexts
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.recorded_model import IndexingSettings

__all__ = ["IndexingStats", "compared", "index_passages"]


@dataclass(frozen=True)
class IndexingStats:
    """What was written to an index, and what it took.

    Attributes:
        passages: written.
        unchanged: passages that were in the index already, and were not encoded.
        truncated: written passages whose ends the model did not read.
        tokens: of the written passages, markers included.
        padded_tokens: what the encoder computed for them, padding included.
        tokenize_s: seconds of reading and tokenising, beside the encoding.
        encode_s: seconds of encoding.
        write_s: seconds of pooling, writing and compacting.
    """

    passages: int = 0
    unchanged: int = 0
    truncated: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    tokenize_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: IndexingStats) -> IndexingStats:
        names = [field.name for field in fields(self)]
        return IndexingStats(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def padding_waste(self) -> float:
        """Padding tokens per token that was none."""
        return self.padded_tokens / self.tokens - 1 if self.tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens encoded per second of encoding."""
        return self.tokens / self.encode_s if self.encode_s else 0.0


def compared(index: Index, passages: Iterable[Passage]) -> Iterator[tuple[Passage, bool | None]]:
    """Each passage, and whether the index holds it as it is; None where it does not hold its id.

    Of an index that records no model, no passage is known to be as it is.
    """
    knows_model = "fingerprint" in (index.model or {})
    for window in _windows(passages):
        held = index.compare(
            [passage.doc_id for passage in window],
            [passage.text for passage in window],
            [passage.metadata for passage in window],
        )
        for passage in window:
            unchanged = held.get(passage.doc_id)
            yield passage, unchanged and knows_model


def index_passages(
    model: ColBERT,
    index: Index,
    passages: Iterable[Passage],
    total: int,
    *,
    upsert: bool,
    advance: Callable[[IndexingStats], Any],
    progress: Progress = silent,
) -> None:
    """Writes passages to an index; with `upsert` those that exist are replaced.

    A passage that the index holds with the same text and metadata is skipped.

    Args:
        model: encodes them.
        index: stores them.
        passages: read as they are needed: no more than a few windows of them are in memory.
        total: how many there are. Many new ones are coded together, by centroids for all of them.
        upsert: replace passages whose ids exist.
        advance: is told what each window was, when it is durable; and at the end what the rest took.
        progress: is told how far it is, after each batch and during the compaction at the end.
    """
    n_done = 0

    def encoded(n_passages: int) -> None:
        nonlocal n_done
        n_done += n_passages
        progress("encoding", n_done, total)

    settings = IndexingSettings.of(index)
    put = index.upsert if upsert else index.add
    many = total > batching.WINDOW_TEXTS and total >= len(index)
    with index.bulk(progress=progress) if many else nullcontext():
        tokenized = _tokenized(model, index if len(index) else None, passages, settings.on_overflow)
        with closing(ahead(tokenized)) as found:
            for window, tokens, stats in found:
                encoded(stats.unchanged)
                if tokens is None:
                    advance(stats)
                    continue
                start = time.perf_counter()
                embeddings = model.encode_tokenized(tokens, encoded)
                done = time.perf_counter()
                put(
                    [passage.doc_id for passage in window],
                    pool(embeddings, settings.pool_factor),
                    texts=[passage.text for passage in window],
                    metadata=[passage.metadata for passage in window],
                )
                written = time.perf_counter()
                advance(stats + IndexingStats(encode_s=done - start, write_s=written - done))
        start = time.perf_counter()
    advance(IndexingStats(write_s=time.perf_counter() - start))


def _windows(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    return windows(passages, lambda passage: len(passage.text))


def _tokenized(
    model: ColBERT, index: Index | None, passages: Iterable[Passage], on_overflow: OnOverflow
) -> Iterator[tuple[list[Passage], TokenizedTexts | None, IndexingStats]]:
    """Windows of the passages that are to be written, their tokens, and what that took.

    What `index` holds as it is is left out, and counted; what counts the last of it has no tokens.
    """
    n_unchanged = 0

    def new() -> Iterator[Passage]:
        nonlocal n_unchanged
        if index is None:
            yield from passages
            return
        for passage, unchanged in compared(index, passages):
            if unchanged:
                n_unchanged += 1
            else:
                yield passage

    begun = time.perf_counter()
    for window in _windows(new()):
        tokens = model.tokenize_documents(
            [passage.text for passage in window],
            on_overflow=on_overflow,
            names=[passage.doc_id for passage in window],
        )
        stats = IndexingStats(
            passages=len(window),
            unchanged=n_unchanged,
            truncated=tokens.n_truncated,
            tokens=int(tokens.row_lengths.sum()),
            padded_tokens=model.n_padded_tokens(tokens),
            tokenize_s=time.perf_counter() - begun,
        )
        n_unchanged = 0
        yield window, tokens, stats
        begun = time.perf_counter()
    yield [], None, IndexingStats(unchanged=n_unchanged)
