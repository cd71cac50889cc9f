"""The command line: parse, one library call, print.

Each command is a module of this package, named after it: its arguments, the library call, and the lines for
people. Only the module of the command that runs is imported, and it imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol, cast

from mlx_colbert._version import __version__
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.errors import ColBERTError

__all__ = ["COMMANDS", "command_module", "main"]

# Name and summary of each command.
COMMANDS = {
    "convert": "Turn a PyTorch ColBERT checkpoint into an MLX model folder.",
    "index": "Make an index of the passages of files and folders; the same command goes on where one was "
    "stopped.",
    "import-index": "Make a new index of one that another engine wrote.",
    "search": "Find the passages of an index that answer a query.",
    "add": "Add the passages of files and folders to an index.",
    "delete": "Delete passages from an index.",
    "compact": "Write an index anew, without the rows of deleted passages.",
    "verify-index": "Compare every byte of an index with its checksums.",
    "verify-model": "Compare a checkpoint of the hub with its published values.",
    "rerank": "Order texts by how well they answer a query, without an index.",
    "doctor": "Tell what this machine computes with, how fast, and what is in the way.",
    "info": "Describe an index or a converted model.",
}


class Command(Protocol):
    """The module of a command.

    Attributes:
        EXAMPLE: a command line that works.
        JSON_KEYS: what `--json` prints.
    """

    EXAMPLE: str
    JSON_KEYS: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the arguments of the command to a parser."""

    def run(self, args: argparse.Namespace) -> Result:
        """Runs the command; returns the JSON object to print."""

    def render(self, result: Result, args: argparse.Namespace) -> str:
        """The same for people."""


def command_module(name: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"mlx_colbert.cli.{name.replace('-', '_')}"))


EXIT_CODES = """\
exit codes: 0 success; 1 an error, told in a line or two on stderr, or a conversion whose --verify did not
pass, verify-model's too, or damage that verify-index found; 2 wrong usage, k = 0 included; 130 interrupted;
141 the reader of the output has gone."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line; `sys.argv` without one.

    Wrong usage and `--help` raise SystemExit, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    args = _parser(arguments).parse_args(arguments)
    command: Command = args.command
    # A half-made folder is removed then too.
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        result = command.run(args)
        as_json = json.dumps(result, ensure_ascii=False) if args.json else None
        print(as_json or command.render(result, args), flush=True)
    except BrokenPipeError:
        # The reader has gone, as in `| head -1`. Python would complain again when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as error:
        return _fail("interrupted.", error, code=130)
    except (ColBERTError, OSError) as error:
        return _fail(f"error: {_message(error)}", error, code=1)
    return 0 if result.get("passed", True) else 1


def _prepare_streams() -> None:
    """Makes output possible that the terminal's encoding lacks, and tolerates closed streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, error: BaseException, *, code: int) -> int:
    notes = getattr(error, "__notes__", [])
    lines = "\n".join([f"mlx-colbert: {message}", *notes]).split("\n")
    # A name out of a file must not steer the terminal.
    print("\n".join(printable(line) for line in lines), file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    if (
        isinstance(error, OSError)
        and not isinstance(error, ColBERTError)
        and error.filename
        and error.strerror
    ):
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    return str(error)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-colbert",
        description="ColBERT late-interaction retrieval on Apple silicon, or with numpy anywhere.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlx-colbert {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if arguments[:1] == [name]:
            command = command_module(name)
            command.add_arguments(subparser)
            subparser.add_argument("--json", action="store_true", help="print one JSON document")
            subparser.epilog = f"example:\n  {command.EXAMPLE}\n\n--json prints {command.JSON_KEYS}."
            subparser.set_defaults(command=command)
    return parser
