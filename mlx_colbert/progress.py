"""Progress of long calls: one kind of callback for all of them, and bars that show it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = ["Part", "Progress", "hidden", "is_hidden", "shown", "silent"]

# Called with a stage, the amount done, and the whole amount (None if it is not known). "reading", "exporting"
# and "importing" count passages, "encoding" counts texts, "training" and "writing" count token embeddings.
Progress: TypeAlias = Callable[[str, int, int | None], object]
# Called with the part of a task that is done, 0 to 1.
Part: TypeAlias = Callable[[float], object]

_UNITS = {
    "reading": " passages",
    "exporting": " passages",
    "importing": " passages",
    "encoding": " texts",
    "training": " tokens",
    "writing": " tokens",
}
# Seconds. A shorter call shows no bar.
_DELAY_S = 1.0


def silent(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""


_is_hidden = False


@contextmanager
def hidden() -> Iterator[None]:
    """A block in which no call shows a bar, unless it is asked for one with `show=True`."""
    global _is_hidden
    before, _is_hidden = _is_hidden, True
    try:
        yield
    finally:
        _is_hidden = before


def is_hidden() -> bool:
    """Whether this is inside a block of `hidden`."""
    return _is_hidden


def _is_notebook() -> bool:
    """Whether a notebook shows the output. Its stream says that it is not a terminal."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


@contextmanager
def shown(progress: Progress | None = None, show: bool | None = None) -> Iterator[Progress]:
    """The callback of the caller. Without one, a callback that shows a bar for each stage.

    Args:
        progress: the callback of the caller.
        show: True shows the bars, False does not. None shows them on a terminal and in a notebook, if the
            call takes longer than a second.
    """
    if progress is not None or show is False or (show is None and _is_hidden):
        yield progress or silent
        return
    from tqdm.auto import tqdm

    stage, bar, begun = "", None, time.monotonic()

    def advance(name: str, done: int, total: int | None) -> None:
        nonlocal stage, bar
        if bar is None or name != stage:
            if bar is not None:
                bar.close()
            stage = name
            look: dict[str, Any] = {"unit": _UNITS.get(name, ""), "unit_scale": _UNITS.get(name) == " tokens"}
            if show is None:
                # disable=None: tqdm shows no bar if the output goes to a file.
                disable = False if _is_notebook() else None
                look |= {"disable": disable, "delay": max(_DELAY_S - (time.monotonic() - begun), 0.0)}
            bar = tqdm(total=total, desc=name, **look)
        bar.update(done - bar.n)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
