"""The command line: parse, one library call, print.

`commands.py` lists the subcommands. Each returns a JSON object: `--json` prints it as it is, and otherwise
`render.py` turns it into lines for people.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mlx_colbert._version import __version__
from mlx_colbert.cli import render
from mlx_colbert.cli.commands import COMMANDS, Command
from mlx_colbert.errors import ColBERTError

__all__ = ["COMMANDS", "main"]

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
    print("\n".join(render.printable(line) for line in lines), file=sys.stderr)
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
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"example:\n  {command.example}\n\n--json prints {command.json_keys}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=command)
        # Adding arguments may import what only this command needs (convert).
        if arguments[:1] == [command.name]:
            command.add_arguments(subparser)
            subparser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
