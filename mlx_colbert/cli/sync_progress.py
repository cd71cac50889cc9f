"""The progress of a sync in the terminal: files, passages per second, and the time that is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_colbert.progress import Progress

__all__ = ["sync_progress"]

# Seconds. A shorter sync shows no bar.
_DELAY_S = 1.0
_LOOK = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} files, {postfix} {remaining} left"


@contextmanager
def sync_progress(name: str) -> Iterator[Progress]:
    """The callback for `Collection.sync`. It shows a bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    begun = time.monotonic()
    # Files are counted in another thread than passages.
    lock = threading.Lock()
    bars: dict[str, Any] = {}

    def advance(stage: str, done: int, total: int | None) -> None:
        with lock:
            if stage == "encoding":
                if bar := bars.get("files"):
                    per_s = done / max(time.monotonic() - begun, 1e-3)
                    bar.set_postfix_str(f"{done:,} passages, {per_s:,.0f}/s,", refresh=False)
                    bar.refresh()
                return
            if stage not in bars:
                delay = max(_DELAY_S - (time.monotonic() - begun), 0.0)
                look: dict[str, Any] = {"total": total, "delay": delay, "disable": None}
                if stage == "files":
                    look |= {"desc": name, "bar_format": _LOOK, "postfix": ""}
                else:
                    look |= {"desc": f"{name}, {stage}", "unit": " tokens", "unit_scale": True}
                bars[stage] = tqdm(**look)
            bars[stage].update(done - bars[stage].n)

    try:
        yield advance
    finally:
        for bar in bars.values():
            bar.close()
