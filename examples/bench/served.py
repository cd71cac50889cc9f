"""A server in a process of its own, for the benchmarks of servers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

__all__ = ["Served", "paragraphs", "percentile", "served"]

_START_S = 300


@dataclass
class Served:
    """A server that answers.

    Attributes:
        name: what the tables call it.
        url: where it is.
        process: its process.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes]

    def memory_mb(self) -> float:
        """The memory that it uses now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kilobytes) / 1024

    def cpu_s(self) -> float:
        """The seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(
    name: str, command: Sequence[str], port: int, log: Path, ready: str = "/ready", home: Path | None = None
) -> Iterator[Served]:
    """A block with a server. It is killed at the end.

    Args:
        name: what the tables call it.
        command: the command that starts it.
        port: the port that the command names.
        log: the file of its output.
        ready: the path that answers 200 when it is ready.
        home: the folder of its collections.
    """
    environment = {**os.environ, **({} if home is None else {"MLX_COLBERT_HOME": str(home)})}
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                if httpx.get(url + ready, timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield Served(name, url, process)
    finally:
        process.kill()
        process.wait()


def paragraphs(folder: Path) -> list[str]:
    """The paragraphs of the Markdown files of a folder that have 5 words or more."""
    texts = [path.read_text() for path in sorted(folder.rglob("*.md"))]
    found = [block.strip() for text in texts for block in text.split("\n\n")]
    found = [block for block in found if len(block.split()) >= 5]
    if not found:
        sys.exit(f"{folder}: there are no Markdown files with paragraphs.")
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed. NaN: there are no values."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
