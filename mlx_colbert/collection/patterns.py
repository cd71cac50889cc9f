"""Regular expressions of a user or of a client. They may not take longer than some seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from mlx_colbert.collection import pattern_process
from mlx_colbert.errors import InputError

__all__ = ["check_pattern", "matching"]

# Texts that are sent at once. The answer fits into the buffer of a pipe.
_AT_ONCE = 512


def check_pattern(pattern: str, *, limit_s: float) -> None:
    """Raise an error if a text is not a regular expression.

    Args:
        pattern: the text.
        limit_s: seconds that it may take to find out.

    Raises:
        InputError: if so.
    """
    with _process(pattern, limit_s):
        pass


def matching(pattern: str, texts: Iterable[tuple[str, str]], *, limit_s: float) -> list[str]:
    """The names of the texts in which a regular expression is found. "^" and "$" are the ends of a line.

    Args:
        pattern: the regular expression.
        texts: name and text of each.
        limit_s: seconds that all of them may take.

    Raises:
        InputError: if it is not a regular expression, or takes longer.

    >>> matching("t.a", [("a", "tea"), ("b", "milk")], limit_s=10)
    ['a']
    """
    found: list[str] = []
    remaining = iter(texts)
    with _process(pattern, limit_s) as process:
        while part := list(islice(remaining, _AT_ONCE)):
            positions = _asked(process, [text for _, text in part])
            found += [part[position][0] for position in positions]
    return found


@contextmanager
def _process(pattern: str, limit_s: float) -> Iterator[subprocess.Popen[str]]:
    """A block with the process that has compiled an expression. It is killed after some seconds."""
    process = subprocess.Popen(
        # Without site-packages, it starts fast.
        [sys.executable, "-I", "-S", pattern_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="ascii",
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        problem = _asked(process, pattern)
        if problem is not None:
            raise InputError(f"{pattern!r:.80}: is not a regular expression: {problem}.")
        yield process
    except (BrokenPipeError, EOFError) as error:
        if late.is_set():
            reason = f"takes longer than {limit_s:.0f} seconds to look for. Make it simpler."
        else:
            reason = "needs too much memory. Make it simpler."
        raise InputError(f"{pattern!r:.80}: the regular expression {reason}") from error
    finally:
        timer.cancel()
        process.kill()
        with suppress(BrokenPipeError):
            process.communicate()


def _asked(process: subprocess.Popen[str], question: Any) -> Any:
    """The answer of the process.

    Raises:
        BrokenPipeError: if it ended.
        EOFError: if it ended.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()).endswith("\n"):
        raise EOFError
    return json.loads(line)
