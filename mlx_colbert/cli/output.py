"""The standard output of a command."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress

from mlx_colbert.cli.render import printable, printable_json
from mlx_colbert.progress import is_hidden

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than a client of the daemon works
if TYPE_CHECKING:
    from typing import Any

__all__ = ["OutputLostError", "as_json", "note", "prepare_streams", "write"]


class OutputLostError(Exception):
    """The standard output takes no more.

    Attributes:
        error: why: a BrokenPipeError if the program that read it has ended.
    """

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(str(error))


def write(text: str, end: str = "\n", *, stream: str = "stdout") -> None:
    """Print a text at once.

    Args:
        text: the text.
        end: what follows it.
        stream: "stdout", or "stderr", where a text that cannot be written is dropped.

    Raises:
        OutputLostError: if it cannot be written. Nothing more is then written to the output.
    """
    file = sys.stdout if stream == "stdout" else sys.stderr
    try:
        print(text, end=end, flush=True, file=file)
    except OSError as error:
        if stream != "stdout":
            return
        # Python would print an error when it closes stdout at exit. In the daemon there is nothing to close.
        with suppress(io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputLostError(error) from error


def prepare_streams() -> None:
    """Allow characters that the encoding of the terminal lacks, and closed output streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(text: str) -> None:
    """Tell a person on stderr what happens. Not with --quiet."""
    if not is_hidden():
        write(printable(text), stream="stderr")


def as_json(result: dict[str, Any]) -> str:
    """A JSON object as text, with escapes for the characters that the output lacks."""
    return printable_json(json.dumps(result, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
