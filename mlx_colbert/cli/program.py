"""The program of the command line: it parses, runs a command, and prints the result or the error."""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, cast

from mlx_colbert._version import __version__
from mlx_colbert.cli import COMMANDS, GROUPS
from mlx_colbert.cli.output import OutputLostError, as_json, prepare_streams, write
from mlx_colbert.cli.render import Result, printable
from mlx_colbert.configuration import KEYS, applied
from mlx_colbert.errors import ColBERTError, message_of
from mlx_colbert.progress import hidden
from mlx_colbert.stages import explained, fact, listened

__all__ = ["command_module", "command_parser", "failed", "parser", "reply", "run"]

_NAME = "mlx-colbert"
_DESCRIPTION = "Search your own texts by meaning, on your own machine."
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


def run(arguments: Sequence[str], *, declined: str | None = None, begun: float | None = None) -> int:
    """Run a command line, and return its exit code.

    Args:
        arguments: the words after `mlx-colbert`.
        declined: why the daemon did not answer, if it was asked.
        begun: `time.perf_counter()` at the beginning. None: now.
    """
    prepare_streams()
    if not arguments:
        write(_short_help(), stream="stderr")
        return 2
    try:
        # A wrong configuration must not stop the command that mends it.
        with nullcontext() if arguments[:1] == ["config"] else applied():
            args = _parsed(arguments)
            with _telling(args, time.perf_counter() if begun is None else begun):
                if declined is not None and _is_for_daemon(args):
                    fact("daemon", f"not used: {declined}")
                return _run(args)
    except BaseException as error:
        return failed(error)


def _run(args: argparse.Namespace) -> int:
    """Run a command, print its result, and return its exit code."""
    result = args.command.run(args)
    if args.quiet and not args.json:
        result = {name: [] if name == "notes" else value for name, value in result.items()}
    text = as_json(result) if args.json else args.command.render(result, args)
    if text is not None:
        write(text)
    return 0 if result.get("passed", True) else 1


def failed(error: BaseException) -> int:
    """Print how a command failed, and return its exit code. A fault of the program is raised again."""
    if (failure := _failure(error)) is None:
        raise error
    if failure.lines:
        from mlx_colbert.cli.paragraphs import paragraphs

        write(paragraphs(failure.lines, stream="stderr"), stream="stderr")
    return failure.code


def reply(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command line in a daemon; returns the exit code, and whether the client tells its time too."""
    is_verbose = False
    try:
        with applied():
            args = _parsed(arguments)
            if not _is_for_daemon(args):
                return {"kind": "refused", "reason": "the command or the settings do not allow it"}
            is_verbose = args.verbose
            with _telling(args, time.perf_counter(), whole="all in the daemon"):
                code = _run(args)
    except SystemExit as error:
        # The usage has been printed.
        code = error.code if isinstance(error.code, int) else 2
    except OutputLostError:
        # The client has left.
        raise BrokenPipeError from None
    except BaseException as error:
        code = failed(error)
    return {"code": code, "is_verbose": is_verbose}


def _is_for_daemon(args: argparse.Namespace) -> bool:
    return os.environ.get(KEYS["daemon"].variable) != "false" and args.in_daemon(args)


@contextmanager
def _telling(args: argparse.Namespace, begun: float, *, whole: str = "in all") -> Iterator[None]:
    """A block that obeys --quiet, and explains itself at the end with --verbose."""
    with hidden() if args.quiet else nullcontext():
        if not args.verbose:
            yield
            return
        with listened() as stages:
            try:
                yield
            finally:
                stages.add(whole, 1000 * (time.perf_counter() - begun))
                for line in explained(stages):
                    write(f"mlx-colbert: {printable(line)}", stream="stderr")


class _Failure(NamedTuple):
    """How a command fails.

    Attributes:
        code: its exit code.
        lines: what it prints on stderr.
    """

    code: int
    lines: list[str]


def _failure(error: BaseException) -> _Failure | None:
    """How a command ends with an error. None: this is a fault of the program."""
    if isinstance(error, KeyboardInterrupt):
        return _failed("interrupted.", error, code=130)
    if isinstance(error, OutputLostError):
        if isinstance(error.error, BrokenPipeError):
            # The reader has ended, as in `| head -1`.
            return _Failure(141, [])
        # A full disk behind `> file`.
        why = error.error.strerror or error.error
        return _failed(f"error: the output cannot be written: {why}.", error, code=1)
    if isinstance(error, ColBERTError | OSError | MemoryError):
        return _failed(f"error: {message_of(error)}", error, code=1)
    return None


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    command_line = parser(arguments)
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        command_line.error(_no_command(arguments[0]))
    args, unknown = command_line.parse_known_args(arguments)
    if unknown:
        words = " ".join(word for word in unknown if not word.startswith("-"))
        hint = f' Put the query in quotes: "{args.query} {words}".' if words and "query" in args else ""
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
    args.json = args.json or getattr(args, "format", None) == "json"
    return args


def _no_command(name: str) -> str:
    """That there is no such command, and which ones there are."""
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"{_NAME} --help lists the commands."
    return f"there is no command {name!r:.100}. {hint}"


def _failed(message: str, error: BaseException, *, code: int) -> _Failure:
    notes = getattr(error, "__notes__", [])
    lines = "\n".join([f"mlx-colbert: {message}", *notes]).split("\n")
    # A name from a file must not control the terminal.
    return _Failure(code, [printable(line) for line in lines])


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line, with the arguments of its command."""
    parser = argparse.ArgumentParser(
        prog=_NAME,
        usage=f"{_NAME} [-h] [--version] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    # The list of the commands is in the description.
    subparsers = parser.add_subparsers(prog=_NAME, metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    chosen = next((name for name in COMMANDS if arguments[:1] == [name]), None)
    if chosen is None:
        parser.description, parser.epilog = f"{_DESCRIPTION}\n\n{_command_list()}", EXIT_CODES
    # The other commands are in the help alone, and each costs time.
    for name in [chosen] if chosen else COMMANDS:
        subparser = subparsers.add_parser(
            name, description=COMMANDS[name], formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == chosen:
            _add_command(subparser, command_module(name))
    return parser


def _command_list() -> str:
    """The commands by what they are for, as wide as the terminal."""
    import shutil
    import textwrap

    width = max(shutil.get_terminal_size().columns - 2, 40)
    indent = 4 + max(map(len, COMMANDS))
    parts = []
    for title, group in GROUPS.items():
        lines = [f"{title}:"]
        for name, summary in group.items():
            first = summary.split(". ")[0].removesuffix(".")
            start = f"  {name}".ljust(indent)
            lines.append(textwrap.fill(first, width, initial_indent=start, subsequent_indent=" " * indent))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _short_help() -> str:
    """What is printed without a command."""
    return f"""\
{_DESCRIPTION}

usage: {_NAME} COMMAND ...

{_command_list()}

{_NAME} COMMAND --help describes a command."""


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    actions = parser([name])._subparsers
    assert actions is not None
    (subparsers,) = actions._group_actions
    assert isinstance(subparsers.choices, dict)
    found: argparse.ArgumentParser = subparsers.choices[name]
    return found


def _add_command(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the arguments of a command, and those that every command has."""
    parser.set_defaults(command=command, parser=parser, in_daemon=lambda args: True)
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    told = parser.add_mutually_exclusive_group()
    told.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say on stderr what was used, and how many milliseconds it took",
    )
    told.add_argument("--quiet", action="store_true", help="no notes, and no progress")
    parser.epilog = f"example:\n  {command.EXAMPLE}\n\n--json prints {command.JSON_KEYS}."
