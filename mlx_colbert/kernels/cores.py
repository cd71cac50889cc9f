"""The number of cores that this process may use.

A container with a CPU limit (`docker run --cpus 2`) sees all cores of the machine. The limit is a quota of
its cgroup: an amount of CPU time for each period. Too many busy threads use up the quota early in a period,
and then all of them wait for the next one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["n_cores"]


@cache
def n_cores(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of cores that this process may use, 1 or more. A part of a core counts as one.

    This is the number of cores of the machine, or less if the process is bound to some of them, or if its
    cgroup (version 1 or 2) or a cgroup above has a quota. The first call reads it.

    Args:
        groups: the file that names the cgroups of this process.
        mount: the folder of the cgroup file systems.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(groups, mount))])


def _quotas(groups: Path, mount: Path) -> Iterator[float]:
    """The quotas, in cores, of the cgroups of this process and of those above them."""
    lines = (_text(groups) or "").splitlines()
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        # Version 2 names no controllers. Version 1 has a folder for each set of controllers.
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers
        # A container may show only its own cgroup, as the root, under a path of the machine outside.
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                yield from _quota(place)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one cgroup, in cores, if it has one."""
    both = _text(folder / "cpu.max")  # version 2: "200000 100000" or "max 100000", in microseconds
    if both is None:
        both = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
    with suppress(ValueError):
        quota, period = (int(word) for word in both.split())
        # Version 1 has a quota of -1 for no limit.
        if quota > 0 and period > 0:
            yield quota / period


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None
