"""The command line: parse, one library call, print.

Each command has a module with its name in this package: its arguments, the library call, and the lines for
people. `program.py` imports only the module of the command that runs. That module imports the library when it
runs. This file imports only what is built into Python, so that Ctrl-C gives one line also while modules load.
"""

from __future__ import annotations

# The module `signal` loads others first. Until the signals are handled, Ctrl-C gives a traceback.
import _signal as signal  # type: ignore[import-not-found]
import sys
import time

TYPE_CHECKING = False  # as `typing` has it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import NoReturn


__all__ = ["COMMANDS", "GROUPS", "main"]

# Name and summary of each command, by what it is for. The list of commands has the first sentence.
GROUPS = {
    "Search your files": {
        "sync": "Make collections of folders, and read what changed in them. The rest is not encoded again.",
        "search": "Find the passages that answer a question.",
        "ask": "Answer a question from your files, with citations. "
        "A language model on this machine writes the answer.",
        "get": "Print a passage, or lines of a file.",
        "similar": "Find the passages that are most like a passage.",
        "explain": "Show which words of a passage match which words of a query.",
    },
    "Keep collections": {
        "collections": "List the collections.",
        "status": "Show what is in collections, and which files changed since.",
        "watch": "Keep collections in step with their files until you stop it.",
        "context": "Say in a sentence what a folder is about. Hits show it.",
        "rename": "Give a collection another name.",
        "rm": "Remove a collection, but not its files.",
        "trust": "Allow the settings of a collection that is beside its files.",
    },
    "Serve programs": {
        "serve": "Serve search and models over HTTP, and a page for the browser.",
        "daemon": "Keep models in memory, so that searches begin at once.",
    },
    "Assistants": {
        "mcp": "Serve collections to an assistant (MCP). The assistant starts this command.",
        "install": "Let an assistant such as Claude Code search your collections.",
        "uninstall": "Remove this program from the settings of an assistant.",
    },
    "Indexes": {
        "index": "Make an index of files and folders. If it stops, run the same command again.",
        "add": "Add files and folders to an index.",
        "delete": "Delete passages from an index.",
        "compact": "Write an index again, without deleted passages.",
        "info": "Describe an index or a model.",
        "verify-index": "Compare every byte of an index with its checksums.",
        "merge-index": "Merge the parts that several machines made into one index.",
        "import-index": "Make an index from the index of another engine.",
        "export-index": "Write an index for another engine. If it stops, run the same command again.",
    },
    "Models": {
        "convert": "Turn a PyTorch ColBERT checkpoint into a model for MLX.",
        "export": "Write a model for PyLate and sentence-transformers.",
        "verify-model": "Compare a model with its published values.",
        "rerank": "Sort texts by how well they answer a query. It needs no index.",
    },
    "Evaluate": {
        "eval": "Measure how good a search is on judged datasets.",
        "bench": "Measure how well a search answers your own questions.",
    },
    "Settings": {
        "config": "List the settings, or change one.",
        "doctor": "Show what this machine computes with, and what makes it slow.",
        "completion": "Print a script that completes commands in bash, zsh or fish.",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}

# The commands that the daemon may run. They must not read the standard input.
OF_DAEMON = ("ask", "explain", "search", "similar")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit code.

    Wrong usage and `--help` raise SystemExit, as in argparse.

    Args:
        argv: the words after `mlx-colbert`. None: those of this process. Then its signals are handled too.
    """
    interrupted, code = False, None

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        if frame is not None and frame.f_code is _interrupt_again.__code__:
            # An exception from there would be dropped as well.
            _start_timer()
        else:
            raise KeyboardInterrupt

    try:
        try:
            if argv is None:
                _handle_signals(interrupt)
                # A search waits so many seconds, again and again, for the look at the files beside it.
                sys.setswitchinterval(0.001)
            begun = time.perf_counter()
            words = sys.argv[1:] if argv is None else argv
            code, declined = _of_daemon(words, begun)
            if code is None:
                from mlx_colbert.cli import program

                code = program.run(words, declined=declined, begun=begun)
            if argv is None and "numpy" not in sys.modules:
                _end(code)
        except BaseException as error:
            # A library may turn the interruption into another error, as the import of numpy does.
            if not interrupted and not isinstance(error, KeyboardInterrupt):
                raise
        finally:
            if argv is None:
                _handle_signals(signal.SIG_IGN)
    except KeyboardInterrupt:
        # Just before the signals were ignored. Python would end itself with a signal, whatever the code is.
        if argv is None:
            _handle_signals(signal.SIG_IGN)
    _forget_interruption()
    if code is None:
        print("mlx-colbert: interrupted.", file=sys.stderr)
        return 130
    return code


def _forget_interruption() -> None:
    """Let the process end with its own code.

    If a KeyboardInterrupt has come out of the `exec` or `eval` of a text, such as that of a dataclass, Python
    ends the process with SIGINT, also if the exception was caught. The next such call makes it forget that.
    """
    # Not `eval`: in this package, that is the module of a command.
    exec("None")


def _end(code: int) -> NoReturn:
    """End the process at once: to take its modules apart takes a tenth of the time of a short command."""
    import os

    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _of_daemon(words: Sequence[str], begun: float) -> tuple[int | None, str | None]:
    """Let the daemon run a command, and print what it prints.

    Returns:
        The exit code, or None and the reason why the daemon did not answer. Without a reason, the command is
        not for a daemon.
    """
    import os

    if not words or words[0] not in OF_DAEMON or os.environ.get("MLX_COLBERT_DAEMON") == "false":
        return None, None
    from mlx_colbert.daemon.client import begin

    asked = begin(words)
    try:
        from mlx_colbert.cli.output import prepare_streams, write

        prepare_streams()
        reply = asked.reply(lambda stream, text: write(text, end="", stream=stream))
        if isinstance(reply, tuple):
            return None, reply.reason
        if reply["is_verbose"]:
            write("mlx-colbert: daemon: answered", stream="stderr")
            write(f"mlx-colbert: in all: {1000 * (time.perf_counter() - begun):,.1f} ms", stream="stderr")
        return reply["code"], None
    except BaseException as error:
        from mlx_colbert.cli import program

        return program.failed(error), None
    finally:
        asked.close()


def _handle_signals(handler: object) -> None:
    """Call a handler on Ctrl-C or SIGTERM."""
    try:
        # SIGTERM too, so that a half-made folder is removed.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, handler)
    except ValueError:  # not the main thread
        return
    sys.unraisablehook = _interrupt_again


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Interrupt later if Python dropped the exception in a callback, such as that of a lock of an import."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        _start_timer()
    else:
        sys.__unraisablehook__(dropped)


def _start_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
