"""The standard output of a command."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mlx_colbert.cli.render import printable_json

__all__ = ["OutputLostError", "as_json", "write"]


class OutputLostError(Exception):
    """The standard output takes no more.

    Attributes:
        error: why: a BrokenPipeError if the program that read it has ended.
    """

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(str(error))


def write(text: str, end: str = "\n") -> None:
    """Print a text at once.

    Raises:
        OutputLostError: if it cannot be written. Nothing more is then written to the output.
    """
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        # Python would print an error when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputLostError(error) from error


def as_json(result: dict[str, Any]) -> str:
    """A JSON object as text, with escapes for the characters that the output lacks."""
    return printable_json(json.dumps(result, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
