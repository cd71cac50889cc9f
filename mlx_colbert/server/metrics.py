"""Numbers about the server, as Prometheus reads them."""

from __future__ import annotations

import resource
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Jobs

__all__ = ["Metrics"]

# Upper limits of the histogram, in seconds.
_LIMITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts requests. Only the thread of the event loop calls it."""

    def __init__(self) -> None:
        self._began = time.time()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            method: its method.
            route: the template of its path, so that there are few of them.
            status: the status of the answer.
            seconds: how long it took.
        """
        self._requests[method, route, status] += 1
        self._seconds.setdefault(route, [0] * (len(_LIMITS) + 1))[bisect_left(_LIMITS, seconds)] += 1
        self._sums[route] = self._sums.get(route, 0.0) + seconds

    def text(self, engine: Engine, jobs: Jobs) -> str:
        """All numbers, in the text format of Prometheus."""
        n_refused = sum(n for (_, _, status), n in self._requests.items() if status == 429)
        running = min(engine.n_accepted, engine.n_workers)
        n_open = sum(not job.has_ended for job in jobs.all())
        lines = [
            *_family("requests_total", "counter", "Requests that were answered.", self._counted()),
            *_family("request_seconds", "histogram", "Seconds of requests.", self._histogram()),
            *_one("requests_refused_total", "counter", "Requests that got no place.", n_refused),
            *_one("requests_running", "gauge", "Requests that a worker works on.", running),
            *_one("requests_waiting", "gauge", "Requests that wait.", engine.n_accepted - running),
            *_one("batches_waiting", "gauge", "Texts that wait to be encoded.", engine.encoder.n_waiting),
            *_one("models_loaded", "gauge", "Models in memory.", len(engine.models.names())),
            *_one("jobs_open", "gauge", "Jobs that run or wait.", n_open),
            *_one("start_time_seconds", "gauge", "When the server began.", round(self._began, 3)),
            *_one("memory_peak_bytes", "gauge", "The most memory that was used.", _peak_bytes()),
        ]
        if (n_bytes := _resident_bytes()) is not None:
            lines += _one("memory_resident_bytes", "gauge", "Memory that is used.", n_bytes)
        return "\n".join(lines) + "\n"

    def _counted(self) -> Iterable[tuple[str, float]]:
        for (method, route, status), n in sorted(self._requests.items()):
            yield f'{{method="{method}",route="{_escaped(route)}",status="{status}"}}', n

    def _histogram(self) -> Iterable[tuple[str, float]]:
        for route, counts in sorted(self._seconds.items()):
            name, n = _escaped(route), 0
            for limit, count in zip((*map(str, _LIMITS), "+Inf"), counts, strict=True):
                n += count
                yield f'_bucket{{route="{name}",le="{limit}"}}', n
            yield f'_sum{{route="{name}"}}', round(self._sums[route], 6)
            yield f'_count{{route="{name}"}}', n


def _family(name: str, kind: str, meaning: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    name = f"mlx_colbert_{name}"
    return [
        f"# HELP {name} {meaning}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value}" for labels, value in samples),
    ]


def _one(name: str, kind: str, meaning: str, value: float) -> list[str]:
    return _family(name, kind, meaning, [("", value)])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _peak_bytes() -> int:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_bytes() -> int | None:
    """Memory that is used now. None: this system does not tell it without another package."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
