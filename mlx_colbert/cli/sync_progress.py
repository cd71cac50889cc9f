"""The progress of a sync in the terminal: passages, files, speed, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_colbert.counts import counted
from mlx_colbert.progress import Progress, is_hidden, silent

__all__ = ["sync_progress"]

# Seconds. A shorter sync shows no bar.
_DELAY_S = 1.0
_LOOK = (
    "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} passages, {rate_fmt}{postfix}, {remaining} left"
)


@contextmanager
def sync_progress(name: str) -> Iterator[Progress]:
    """The callback for `Collection.sync`. It shows a bar on a terminal, and nothing elsewhere."""
    if is_hidden():
        yield silent
        return
    from tqdm import tqdm

    begun = time.monotonic()
    bars: dict[str, Any] = {}
    files = ""

    def advance(stage: str, done: int, total: int | None) -> None:
        nonlocal files
        if stage == "files":
            # In another thread than the rest.
            files = f"{done:,}/{counted(total or done, 'file')}"
            return
        if stage not in bars:
            delay = max(_DELAY_S - (time.monotonic() - begun), 0.0)
            look: dict[str, Any] = {"desc": name, "bar_format": _LOOK, "unit": ""}
            if stage != "encoding":
                look = {"desc": f"{name}, {stage}", "unit": " tokens", "unit_scale": True}
            bars[stage] = tqdm(total=total, delay=delay, disable=None, **look)
        bar = bars[stage]
        if stage == "encoding":
            bar.total = total
            bar.set_postfix_str(files, refresh=False)
        bar.update(done - bar.n)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()
