"""One thread that encodes for all threads of a process. Texts that wait at the same time are one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from mlx_colbert.errors import StoppingError
from mlx_colbert.model.tokenizer import TokenizedTexts
from mlx_colbert.types import TokenEmbeddings

__all__ = ["CallerLeftError", "SharedEncoder", "abandoned_if", "shared_encoder", "sharing"]

# Tokens of a batch before the speed of a model is known, and the least tokens of any.
_FIRST_TOKENS = 1024
_LEAST_TOKENS = 256
_MOST_TOKENS = 65_536
# Seconds. A thread that encoded so short a time ago may expect more requests at once.
_BUSY_S = 0.05
# Models whose speed is known.
_MOST_SPEEDS = 64
# So many batches of short requests may pass a long one.
_MOST_PASSING = 4

Compute = Callable[[TokenizedTexts], TokenEmbeddings]


class CallerLeftError(Exception):
    """Nobody waits for the result any more, so it was not computed."""


@dataclass(eq=False)
class _Request:
    """Texts of one caller.

    Attributes:
        model: texts with an equal value may be in one batch.
        texts: the texts.
        compute: encodes texts of that model.
        has_left: whether nobody waits for them any more.
        found: the token embeddings, or the error.
        is_done: set when there is one of them.
    """

    model: object
    texts: TokenizedTexts
    compute: Compute
    has_left: Callable[[], bool]
    found: TokenEmbeddings | BaseException | None = None
    # An event, no future: the import of concurrent.futures takes longer than to encode a query.
    is_done: threading.Event = field(default_factory=threading.Event)

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return int(self.texts.row_lengths.sum())

    def finish(self, found: TokenEmbeddings | BaseException) -> None:
        """Give the caller its token embeddings, or an error."""
        self.found = found
        self.is_done.set()

    def result(self) -> TokenEmbeddings:
        """The token embeddings, when they are there."""
        self.is_done.wait()
        if isinstance(self.found, BaseException):
            raise self.found
        assert self.found is not None
        return self.found


class SharedEncoder:
    """A thread that encodes.

    Requests with few tokens, such as queries, go first. A request with many tokens is cut into parts, so a
    query waits for one part at most.

    Args:
        window_s: seconds that the thread waits for more requests before a batch, if it was busy just before.
        batch_s: seconds that a batch should take. Its tokens follow from the speed that was measured.
    """

    def __init__(self, *, window_s: float = 0.002, batch_s: float = 0.1) -> None:
        self._window_s = window_s
        self._batch_s = batch_s
        self._changed = threading.Condition()
        self._short: deque[_Request] = deque()
        self._long: deque[_Request] = deque()
        # Tokens per second of each model.
        self._speeds: dict[object, float] = {}
        self._n_passed = 0
        self._ended = 0.0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="mlx-colbert-encoder", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Requests that wait."""
        return len(self._short) + len(self._long)

    def close(self) -> None:
        """Encode what waits, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def encode(
        self, model: object, texts: TokenizedTexts, compute: Compute, advance: Callable[[int, int], object]
    ) -> TokenEmbeddings:
        """Token embeddings of tokenised texts, in order.

        Args:
            model: texts with an equal value may be in one batch.
            texts: N texts.
            compute: encodes texts of that model, in the thread.
            advance: called after each part, with its number of texts and of tokens.

        Raises:
            CallerLeftError: if nobody waits for them any more (`abandoned_if`).
            StoppingError: after `close`.
        """
        parts = list(_parts(texts, self._budget(model)))
        queue = self._short if len(parts) == 1 else self._long
        found = []
        for part in parts:
            request = _Request(model, part, compute, _has_left.get())
            with self._changed:
                if self._is_closed:
                    raise StoppingError("the encoding of texts")
                queue.append(request)
                self._changed.notify_all()
            found.append(request.result())
            advance(len(part.n_rows), request.n_tokens)
        if len(found) == 1:
            return found[0]
        return TokenEmbeddings(
            np.concatenate([part.vectors for part in found]), np.concatenate([part.lengths for part in found])
        )

    def _budget(self, model: object) -> int:
        """The most tokens of a batch."""
        speed = self._speeds.get(model)
        if speed is None:
            return _FIRST_TOKENS
        return min(max(int(speed * self._batch_s), _LEAST_TOKENS), _MOST_TOKENS)

    def _run(self) -> None:
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Answer the next batch. False: there is none, and it is time to end."""
        # A variable of `_run` would hold the model of the last batch, while the thread waits.
        batch = self._next()
        try:
            self._answer(batch)
        except BaseException as error:
            # Callers would wait for ever for a thread that has ended.
            for request in batch:
                if not request.is_done.is_set():
                    request.finish(error)
        return bool(batch)

    def _next(self) -> list[_Request]:
        """The requests of the next batch. Empty: it is time to end."""
        with self._changed:
            while not self.n_waiting:
                if self._is_closed:
                    return []
                self._changed.wait()
            if self._short and time.monotonic() - self._ended < _BUSY_S:
                self._changed.wait(self._window_s)
            is_long = not self._short or (bool(self._long) and self._n_passed >= _MOST_PASSING)
            self._n_passed = 0 if is_long else self._n_passed + 1
            return self._taken(self._long if is_long else self._short)

    def _taken(self, queue: deque[_Request]) -> list[_Request]:
        """The first request of a queue, and those of the same model that fit into one batch with it."""
        first = queue.popleft()
        taken, n_tokens = [first], first.n_tokens
        budget = self._budget(first.model)
        for request in list(queue):
            if request.model == first.model and n_tokens + request.n_tokens <= budget:
                queue.remove(request)
                taken.append(request)
                n_tokens += request.n_tokens
        return taken

    def _answer(self, batch: list[_Request]) -> None:
        waiting = []
        for request in batch:
            if request.has_left():
                request.finish(CallerLeftError("the caller left"))
            else:
                waiting.append(request)
        if not waiting:
            return
        begun = time.monotonic()
        try:
            found = waiting[0].compute(_joined([request.texts for request in waiting]))
        except BaseException as error:
            if len(waiting) == 1:
                waiting[0].finish(error)
                return
            # One of them cannot be encoded, and the others must not fail for it.
            for request in waiting:
                self._answer([request])
            return
        self._ended = time.monotonic()
        n_tokens = sum(request.n_tokens for request in waiting)
        self._measured(waiting[0].model, n_tokens / max(self._ended - begun, 1e-6))
        start = 0
        for request in waiting:
            end = start + len(request.texts.n_rows)
            request.finish(found[start:end])
            start = end

    def _measured(self, model: object, speed: float) -> None:
        before = self._speeds.get(model, speed)
        self._speeds[model] = 0.7 * before + 0.3 * speed
        if len(self._speeds) > _MOST_SPEEDS:
            # The oldest one. Its model is probably no more in memory; else it is measured again.
            del self._speeds[next(iter(self._speeds))]


def _parts(texts: TokenizedTexts, budget: int) -> Iterator[TokenizedTexts]:
    """Consecutive texts with at most so many tokens together, or a single text that has more."""
    lengths = np.add.reduceat(texts.row_lengths, np.cumsum(texts.n_rows) - texts.n_rows)
    first_row = first = n_tokens = 0
    for number, length in enumerate(lengths.tolist()):
        if number > first and n_tokens + length > budget:
            yield _part(texts, first, number, first_row)
            first_row += int(texts.n_rows[first:number].sum())
            first, n_tokens = number, 0
        n_tokens += length
    yield _part(texts, first, len(lengths), first_row)


def _part(texts: TokenizedTexts, first: int, end: int, first_row: int) -> TokenizedTexts:
    n_rows = texts.n_rows[first:end]
    rows = texts.rows[first_row : first_row + int(n_rows.sum())]
    return TokenizedTexts(rows, n_rows, texts.n_truncated, texts.max_length)


def _joined(parts: list[TokenizedTexts]) -> TokenizedTexts:
    """The texts of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return TokenizedTexts(
        [row for part in parts for row in part.rows],
        np.concatenate([part.n_rows for part in parts]),
        sum(part.n_truncated for part in parts),
        max(part.max_length for part in parts),
    )


_has_left: ContextVar[Callable[[], bool]] = ContextVar("has_left", default=lambda: False)


@contextmanager
def abandoned_if(has_left: Callable[[], bool]) -> Iterator[None]:
    """A block whose encoding stops with `CallerLeftError` when nobody waits for the result any more.

    Args:
        has_left: says so. It is called in another thread.
    """
    token = _has_left.set(has_left)
    try:
        yield
    finally:
        _has_left.reset(token)


_shared: SharedEncoder | None = None


@contextmanager
def sharing(encoder: SharedEncoder) -> Iterator[None]:
    """A block in which all models of this process encode in one thread."""
    global _shared
    before, _shared = _shared, encoder
    try:
        yield
    finally:
        _shared = before


def shared_encoder() -> SharedEncoder | None:
    """The thread that encodes for this process. None: each thread encodes for itself."""
    return _shared
