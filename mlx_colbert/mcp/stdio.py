"""A server on the standard input and output: for a host that starts it, and ends it by closing its input."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from typing import NoReturn

import anyio

from mlx_colbert.engine.engine import Engine
from mlx_colbert.engine.jobs import Job, Jobs
from mlx_colbert.errors import ColBERTError
from mlx_colbert.mcp.served import Served
from mlx_colbert.mcp.server import Backing, make_server
from mlx_colbert.mcp.watching import Watching
from mlx_colbert.progress import hidden

__all__ = ["serve"]


def serve(served: Served, *, may_write: bool, is_verbose: bool = False) -> NoReturn:
    """Serve one host until it closes the standard input or sends SIGTERM. Then the process ends at once.

    What is being written to an index is one transaction, so nothing is left half done.

    Args:
        served: the collections that it may show.
        may_write: whether the host may call `sync`.
        is_verbose: say on the standard error which calls fail, and why.
    """
    wire = _taken_from_all_others()
    logging.basicConfig(
        level=logging.INFO if is_verbose else logging.WARNING, format="mlx-colbert mcp: %(message)s"
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(0))
    threading.Thread(target=_end_without_reader, args=(wire,), daemon=True).start()
    engine = Engine()
    watching = Watching(served, engine.models)
    with hidden(), engine.running():
        code = 0
        try:
            # Not before the first call: its search would find the collections taken.
            backing = Backing(
                engine, served, may_write=may_write, jobs=Jobs(_log_fault), after_call=watching.begin
            )
            server = make_server(backing)
            os.dup2(wire, 1)
            # Until it has ended, the SDK leads the descriptor 1 to the standard error again.
            anyio.run(server.run_stdio_async)
        except BaseException:
            logging.getLogger(__name__).exception("The server failed.")
            code = 1
        # The end of the block would wait for calls that nobody waits for any more.
        os._exit(code)


def _log_fault(job: Job) -> None:
    """Log why a job failed, if the host is told no details."""
    if not isinstance(job.error, ColBERTError | OSError | MemoryError):
        logging.getLogger(__name__).error("%s of %s failed.", job.what, job.target, exc_info=job.error)


def _taken_from_all_others() -> int:
    """A copy of the standard output; all that is printed goes to the standard error from now on."""
    sys.stdout.flush()
    wire = os.dup(1)
    os.dup2(2, 1)
    return wire


def _end_without_reader(wire: int) -> None:
    """End the process when nobody reads its output any more. The SDK would wait for the end of the input."""
    poll = select.poll()
    poll.register(wire, 0)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll()):
        os._exit(0)
