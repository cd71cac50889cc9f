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

    from mlx_colbert.daemon.client import Declined, Exchange

__all__ = ["COMMANDS", "main"]

# Name and summary of each command.
COMMANDS = {
    "convert": "Turn a PyTorch ColBERT checkpoint into an MLX model folder.",
    "export": "Write a model folder as a checkpoint that PyLate and sentence-transformers read.",
    "index": "Make an index of files and folders. If it stops, run the same command again to continue.",
    "merge-index": "Merge the parts that several machines made (index --shard) into one index.",
    "import-index": "Make an index from the index of another engine.",
    "export-index": "Write an index for another engine. If it stops, run the same command again to continue.",
    "sync": "Bring collections of folders in step with their files. Only what changed is encoded.",
    "watch": "Keep collections in step with their files for as long as it runs.",
    "collections": "List the collections.",
    "status": "Show what collections consist of, and how far they are behind their files.",
    "context": "Say in a sentence what a folder is about. It is shown with hits.",
    "rename": "Give a collection another name.",
    "rm": "Remove a collection. Its files stay.",
    "trust": "Use the settings of a collection beside its files, .mlx-colbert/collection.toml.",
    "search": "Find the passages of collections, or of an index, that answer a query.",
    "get": "Print a passage, or lines of a file, of a collection.",
    "similar": "Find passages that are related to a passage.",
    "explain": "Show which word of a query met which word of a passage.",
    "bench": "Measure how well a search finds the files that answer your own questions.",
    "eval": "Measure retrieval quality on judged datasets, with intervals, sizes and times.",
    "ask": "Answer a question from your files with a language model on this machine, with citations.",
    "add": "Add the passages of files and folders to an index.",
    "delete": "Delete passages from an index.",
    "compact": "Write an index again, without deleted passages.",
    "verify-index": "Compare every byte of an index with its checksums.",
    "verify-model": "Compare a model with its published values.",
    "rerank": "Sort texts by how well they answer a query, without an index.",
    "doctor": "Show what this machine computes with, how fast it is, and what makes it slow.",
    "config": "List the settings and where they come from, or change the configuration file.",
    "serve": "Serve search and models over HTTP, for programs and the browser of this machine.",
    "mcp": "Be the server that an assistant starts to search collections (Model Context Protocol, MCP).",
    "install": "Let an assistant such as Claude Code, Codex or Cursor search your collections.",
    "uninstall": "Take the entry of this program out of the settings of an assistant.",
    "daemon": "Keep models in memory in a process of its own, so that searches and answers begin at once.",
    "completion": "Print a script that completes the words of this program in bash, zsh or fish.",
    "info": "Describe an index or a converted model.",
}

# The commands that the daemon may run. They must not read the standard input. Their results must be JSON.
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
            # Before the other modules load: the daemon works meanwhile.
            asked = _asked(words)
            try:
                from mlx_colbert.cli import program

                code = program.run(words, asked, begun)
                if argv is None and "numpy" not in sys.modules:
                    _end(code)
            finally:
                if asked is not None:
                    asked.close()
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
    if code is None:
        print("mlx-colbert: interrupted.", file=sys.stderr)
        return 130
    return code


def _end(code: int) -> NoReturn:
    """End the process at once: to take its modules apart takes a tenth of the time of a short command."""
    import os

    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _asked(words: Sequence[str]) -> Exchange | Declined | None:
    """What became of the request to the daemon. None: the command is not for a daemon."""
    import os

    if not words or words[0] not in OF_DAEMON or os.environ.get("MLX_COLBERT_DAEMON") == "false":
        return None
    from mlx_colbert.daemon.client import begin

    return begin(words)


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
