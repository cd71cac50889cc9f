"""The command line: parse, one library call, print.

Each command is a module of this package, named after it: its arguments, the library call, and the lines for
people. `program.py` imports the module of the command that runs, which imports what it needs when it runs.
Nothing is imported here: an interruption is told in one line at any time, also while modules load.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as `typing` has it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["COMMANDS", "main"]

# Name and summary of each command.
COMMANDS = {
    "convert": "Turn a PyTorch ColBERT checkpoint into an MLX model folder.",
    "index": "Make an index of files and folders. If it is stopped, run the same command again to go on.",
    "import-index": "Make an index from the index of another engine.",
    "search": "Find the passages of an index that answer a query.",
    "add": "Add the passages of files and folders to an index.",
    "delete": "Delete passages from an index.",
    "compact": "Write an index anew, without deleted passages.",
    "verify-index": "Compare every byte of an index with its checksums.",
    "verify-model": "Compare a checkpoint of the hub with its published values.",
    "rerank": "Sort texts by how well they answer a query, without an index.",
    "doctor": "Show what this machine computes with, how fast it is, and what slows it down.",
    "info": "Describe an index or a converted model.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, and returns its exit code.

    Wrong usage and `--help` raise SystemExit, as argparse does.

    Args:
        argv: the words after `mlx-colbert`. None: those of this process, whose signals are handled then.
    """
    interrupted = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    try:
        if argv is None:
            _handle_signals(interrupt)
        from mlx_colbert.cli import program

        return program.run(sys.argv[1:] if argv is None else argv)
    except BaseException as error:
        # A library may turn the interruption into an error of its own, as the import of numpy does.
        if not interrupted and not isinstance(error, KeyboardInterrupt):
            raise
        print("mlx-colbert: interrupted.", file=sys.stderr)
        return 130
    finally:
        if argv is None:
            _handle_signals(None)


def _handle_signals(handler: object) -> None:
    """Calls a handler when the process is to stop; None ignores that: there is nothing left to stop."""
    import signal

    try:
        signal.signal(signal.SIGINT, handler or signal.SIG_IGN)  # type: ignore[arg-type]
        # A half-made folder is removed then too.
        signal.signal(signal.SIGTERM, handler or signal.SIG_IGN)  # type: ignore[arg-type]
    except ValueError:  # not the main thread
        pass
