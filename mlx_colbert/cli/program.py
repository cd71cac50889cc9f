"""The program of the command line: it parses, runs a command, and prints the result or the error."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from mlx_colbert._version import __version__
from mlx_colbert.cli import COMMANDS
from mlx_colbert.cli.output import OutputLostError, as_json, write
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.errors import ColBERTError, IndexNotFoundError

__all__ = ["command_module", "message_of", "parser", "run"]

EXIT_CODES = """\
exit codes:
  0    success
  1    an error (one or two lines on stderr), files that could not be read (the others were read),
       a failed comparison of --verify or verify-model, or damage that verify-index found
  2    wrong usage
  130  interrupted
  141  the program that read the output has ended"""


class Command(Protocol):
    """The module of a command.

    Attributes:
        EXAMPLE: a command line that works.
        JSON_KEYS: what `--json` prints.
    """

    EXAMPLE: str
    JSON_KEYS: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command to a parser."""

    def run(self, args: argparse.Namespace) -> Result:
        """Run the command, and return the JSON object to print."""

    def render(self, result: Result, args: argparse.Namespace) -> str | None:
        """The lines for people, made from that JSON object. None: there is nothing to say."""


def command_module(name: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"mlx_colbert.cli.{name.replace('-', '_')}"))


def run(arguments: Sequence[str]) -> int:
    """Run a command line, and return its exit code."""
    _prepare_streams()
    try:
        args = _parsed(arguments)
        result = args.command.run(args)
        text = as_json(result) if args.json else args.command.render(result, args)
        if text is not None:
            write(text)
    except KeyboardInterrupt as error:
        return _fail("interrupted.", error, code=130)
    except OutputLostError as lost:
        if isinstance(lost.error, BrokenPipeError):
            # The reader has ended, as in `| head -1`.
            return 141
        # A full disk behind `> file`.
        why = lost.error.strerror or lost.error
        return _fail(f"error: the output cannot be written: {why}.", lost, code=1)
    except MemoryError as error:
        return _fail(f"error: there is not enough memory. {error}".rstrip(), error, code=1)
    except (ColBERTError, OSError) as error:
        return _fail(f"error: {message_of(error)}", error, code=1)
    return 0 if result.get("passed", True) else 1


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    args, unknown = parser(arguments).parse_known_args(arguments)
    if unknown:
        words = " ".join(word for word in unknown if not word.startswith("-"))
        hint = f' Put the query in quotes: "{args.query} {words}".' if words and "query" in args else ""
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
    return args


def _prepare_streams() -> None:
    """Allow characters that the encoding of the terminal lacks, and closed output streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, error: BaseException, *, code: int) -> int:
    notes = getattr(error, "__notes__", [])
    lines = "\n".join([f"mlx-colbert: {message}", *notes]).split("\n")
    # A name from a file must not control the terminal.
    with suppress(BrokenPipeError):
        print("\n".join(printable(line) for line in lines), file=sys.stderr)
    return code


def message_of(error: Exception) -> str:
    """What an error says to people."""
    if isinstance(error, IndexNotFoundError):
        return f"index {error.path}: does not exist. Make it with mlx-colbert index."
    if isinstance(error, OSError) and not isinstance(error, ColBERTError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{place}{error.strerror}."
    return str(error)


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line, with the arguments of its command."""
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
            subparser.set_defaults(command=command, parser=subparser)
    return parser
