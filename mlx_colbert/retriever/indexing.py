"""Adds passages to an index: skips those that it has already, and encodes and commits the rest in windows.

::

    passages ── compare ── tokenise ──▶ encode ── pool ── commit      a window of passages at a time
             a thread, one window ahead

A transaction that does not complete a source writes it without its content hash. So a source with a content
hash is complete (`mlx_colbert.retriever.reading`), also after a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from mlx_colbert.documents.passage import Passage, encoded_text
from mlx_colbert.model import batching
from mlx_colbert.model.batching import ahead, windows
from mlx_colbert.model.pooling import pool
from mlx_colbert.progress import Progress, silent
from mlx_colbert.retriever.settings import IndexingSettings
from mlx_colbert.store import Store
from mlx_colbert.types import OnOverflow, Position, Source

if TYPE_CHECKING:
    from mlx_colbert.model.colbert import ColBERT
    from mlx_colbert.model.tokenizer import TokenizedTexts

__all__ = ["Found", "IndexingStats", "compared", "in_bulk", "index_passages"]

# A window takes about this long to encode, so that a kill costs no more. It has this many passages at the
# beginning, and at least.
WINDOW_S = 10.0
FIRST_TEXTS = 64

# A passage, with True if the index has the same passage, False if it differs, None if it is new.
Found: TypeAlias = tuple[Passage, bool | None]


@dataclass(frozen=True)
class IndexingStats:
    """The numbers of written passages, and the time that it took.

    Attributes:
        passages: written passages.
        unchanged: passages that were in the index already, and were not encoded.
        deleted: passages that were deleted, because their source does not have them now.
        truncated: written passages that the model read only in part, because they were too long.
        tokens: tokens of the written passages, with markers.
        padded_tokens: tokens that the encoder computed for them, with padding.
        tokenize_s: seconds to read and tokenise. This runs at the same time as the encoding.
        encode_s: seconds to encode.
        write_s: seconds to pool, write and compact.
    """

    passages: int = 0
    unchanged: int = 0
    deleted: int = 0
    truncated: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    tokenize_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: IndexingStats) -> IndexingStats:
        names = [item.name for item in fields(self)]
        return IndexingStats(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def padding_waste(self) -> float:
        """The number of padding tokens per real token."""
        return self.padded_tokens / self.tokens - 1 if self.tokens else 0.0

    @property
    def tokens_per_s(self) -> float:
        """The number of tokens per second of encoding."""
        return self.tokens / self.encode_s if self.encode_s else 0.0


def compared(store: Store, passages: Iterable[Passage], *, by_source: bool) -> Iterator[Found]:
    """Each passage, with True if the index has the same passage, False if it differs, None if it is new.

    If the index records no model, a passage never counts as the same. With `by_source`, a stored passage with
    another source does not either, because it may be deleted together with that source.
    """
    if not len(store):
        yield from ((passage, None) for passage in passages)
        return
    knows_model = "fingerprint" in (store.model or {})
    for window in windows(passages, lambda passage: len(passage.text)):
        stored = store.compare(
            [passage.doc_id for passage in window],
            [passage.text for passage in window],
            [passage.metadata for passage in window],
            sources=[passage.source for passage in window] if by_source else None,
            positions=[passage.position for passage in window],
        )
        for passage in window:
            unchanged = stored.get(passage.doc_id)
            yield passage, unchanged and knows_model


class _Pace:
    """How many passages are written together: as many as are encoded in `WINDOW_S`, or the most of a window.

    A source is replaced in one transaction, if it is not too large for a window. So it may be more than this.
    """

    def __init__(self) -> None:
        self.n_passages = FIRST_TEXTS

    def note(self, n_passages: int, seconds: float) -> None:
        """Note how long a window took."""
        per_window = n_passages / max(seconds, 1e-9) * WINDOW_S
        self.n_passages = max(FIRST_TEXTS, int(min(per_window, batching.WINDOW_TEXTS)))


@dataclass
class _Window:
    """Passages to write together.

    Attributes:
        passages: new or changed passages.
        replaced: the replaced sources that are complete with them, with the positions of all their passages.
        complete: the other sources that are complete with them.
        unchanged: the number of passages that need no write.
    """

    passages: list[Passage] = field(default_factory=list)
    replaced: dict[Source, dict[str, Position | None]] = field(default_factory=dict)
    complete: set[Source] = field(default_factory=set)
    unchanged: int = 0

    def add(self, other: _Window) -> None:
        """Add the content of another window."""
        self.passages += other.passages
        self.replaced |= other.replaced
        self.complete |= other.complete
        self.unchanged += other.unchanged

    def is_full(self, most: int) -> bool:
        """Whether it must be written now. It has at most so many passages."""
        n_passages = min(most, batching.WINDOW_TEXTS)
        return len(self.passages) >= n_passages or self._characters() >= batching.WINDOW_CHARACTERS

    def has_room(self, other: _Window, most: int) -> bool:
        """Whether there is room for the passages of another window."""
        n_passages = len(self.passages) + len(other.passages)
        n_characters = self._characters() + other._characters()
        return n_passages <= min(most, batching.WINDOW_TEXTS) and n_characters <= batching.WINDOW_CHARACTERS

    def sources(self) -> list[Source | None]:
        """The source of each passage. Without its content hash if it is not complete."""
        return [
            source if source is None or source in self.complete else replace(source, content_hash=None)
            for source in (passage.source for passage in self.passages)
        ]

    def _characters(self) -> int:
        return sum(len(passage.text) for passage in self.passages)


def index_passages(
    model: ColBERT,
    store: Store,
    found: Iterable[Found],
    total: int,
    *,
    n_done: int = 0,
    upsert: bool,
    replaced: Collection[Source] = (),
    advance: Callable[[IndexingStats], Any],
    progress: Progress = silent,
) -> None:
    """Write passages to an index. With `upsert`, replace existing ones.

    Passages that are in the index with the same text, headings and metadata are skipped.

    Args:
        model: the model to encode them.
        store: the index.
        found: the passages, as `compared` returns them. Those of one source must follow each other. They are
            read when they are needed, so only a few windows are in memory.
        total: the number of all passages. If there are many, they are compressed together at the end.
        n_done: how many of these need no write and are not in `found`.
        upsert: replace passages whose ids exist.
        replaced: with `upsert`, the sources whose other passages are deleted, in the transaction that writes
            the new ones. If those are more than a window, it is the last of their transactions.
        advance: called with the numbers of each window when it is durable, and once at the end.
        progress: called after each batch, and during the compaction at the end.
    """
    n_padded = 0

    def encoded(n_passages: int, n_tokens: int = 0) -> None:
        nonlocal n_done, n_padded
        n_done += n_passages
        n_padded += n_tokens
        progress("encoding", n_done, total)

    if n_done:
        encoded(0)
    settings = IndexingSettings.of(store)
    put = store.upsert if upsert else store.add
    stored = {source.uri for source in store.sources()}
    with in_bulk(store, total, progress):
        pace = _Pace()
        tokenized = _tokenized(model, _windows(found, replaced, stored, pace), settings.on_overflow)
        with closing(ahead(tokenized)) as windows_ahead:
            for window, tokens, stats in windows_ahead:
                encoded(stats.unchanged)
                start = time.perf_counter()
                embeddings = None if tokens is None else model.encode_tokenized(tokens, encoded)
                done = start if tokens is None else time.perf_counter()
                if window.passages:
                    pace.note(len(window.passages), done - start)
                columns: dict[str, Any] = {
                    "doc_ids": [passage.doc_id for passage in window.passages],
                    "embeddings": [] if embeddings is None else pool(embeddings, settings.pool_factor),
                    "texts": [passage.text for passage in window.passages],
                    "metadata": [passage.metadata for passage in window.passages],
                }
                n_deleted = 0
                if window.replaced:
                    n_deleted = store.replace_sources(window.replaced, **columns)
                elif window.passages:
                    positions = [passage.position for passage in window.passages]
                    put(**columns, sources=window.sources(), positions=positions)
                written = time.perf_counter()
                advance(
                    stats
                    + IndexingStats(
                        deleted=n_deleted,
                        padded_tokens=n_padded,
                        encode_s=done - start,
                        write_s=written - done,
                    )
                )
                n_padded = 0
        start = time.perf_counter()
    advance(IndexingStats(write_s=time.perf_counter() - start))


def in_bulk(store: Store, total: int, progress: Progress) -> AbstractContextManager[None]:
    """A block to write passages. Many passages are compressed together at its end."""
    many = total > batching.WINDOW_TEXTS and total >= len(store)
    return store.bulk(progress=progress) if many else nullcontext()


def _windows(
    found: Iterable[Found], replaced: Collection[Source], stored: Collection[str], pace: _Pace
) -> Iterator[_Window]:
    """Windows of the passages to write. A replaced source is in one window, unless it is too large for one.

    Args:
        found: passages, each with True if the index has the same one.
        replaced: the sources that are replaced.
        stored: the uris of the sources that the index has already.
        pace: how many passages a window has now.
    """
    window = _Window()
    for source, group in groupby(found, key=lambda pair: pair[0].source):
        is_replaced = source in replaced
        part, positions = (_Window() if is_replaced else window), {}
        # What the index has already may be of another content, or of another source.
        is_new = source is not None and source.uri not in stored
        for passage, unchanged, is_last in _with_ends(group):
            is_new = is_new and not unchanged
            if is_replaced:
                positions[passage.doc_id] = passage.position
            elif is_last and is_new and source is not None:
                part.complete.add(source)
            if unchanged:
                part.unchanged += 1
                continue
            part.passages.append(passage)
            if part.is_full(batching.WINDOW_TEXTS if is_replaced else pace.n_passages):
                if is_replaced:
                    yield window
                yield part
                window = _Window()
                part = _Window() if is_replaced else window
        if source is not None and is_replaced:
            if window.passages and not window.has_room(part, pace.n_passages):
                yield window
                window = _Window()
            window.add(part)
            window.replaced[source] = positions
    yield window


def _with_ends(group: Iterable[Found]) -> Iterator[tuple[Passage, bool | None, bool]]:
    """The passages of a group, each with whether it is the last one."""
    found = iter(group)
    passage, unchanged = next(found)
    for following in found:
        yield passage, unchanged, False
        passage, unchanged = following
    yield passage, unchanged, True


def _tokenized(
    model: ColBERT, found: Iterable[_Window], on_overflow: OnOverflow
) -> Iterator[tuple[_Window, TokenizedTexts | None, IndexingStats]]:
    """Windows of passages to write, each with its tokens, if any, and its numbers so far."""
    begun = time.perf_counter()
    for window in found:
        if not window.passages:
            yield window, None, IndexingStats(unchanged=window.unchanged)
            continue
        tokens = model.tokenize_documents(
            [encoded_text(passage.text, passage.position) for passage in window.passages],
            on_overflow=on_overflow,
            names=[passage.doc_id for passage in window.passages],
        )
        stats = IndexingStats(
            passages=len(window.passages),
            unchanged=window.unchanged,
            truncated=tokens.n_truncated,
            tokens=int(tokens.row_lengths.sum()),
            tokenize_s=time.perf_counter() - begun,
        )
        yield window, tokens, stats
        begun = time.perf_counter()
