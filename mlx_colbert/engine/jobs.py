"""Work that takes long: a caller starts it, and asks later how far it is."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_colbert.errors import BusyError, ColBERTError, message_of
from mlx_colbert.progress import Progress

__all__ = ["Job", "Jobs"]

State = Literal["waiting", "running", "done", "failed"]

# Jobs that have ended and are still known.
_MOST_ENDED = 100
_MOST_WAITING = 32


@dataclass(eq=False)
class Job:
    """Work that takes long.

    Attributes:
        id: what it is asked for by.
        what: what it does, for people.
        target: what it changes: the name of a collection.
        state: how it is.
        stage: what it does now, as `mlx_colbert.progress` names it. "": not known yet.
        n_done: the amount of that stage that is done.
        n_all: the whole amount. None: not known.
        result: what it returned, when it is done.
        error: the error that it failed with, without its traceback.
        began: when it was accepted, in seconds since 1970.
        ended: when it ended.
    """

    id: str
    what: str
    target: str
    state: State = "waiting"
    stage: str = ""
    n_done: int = 0
    n_all: int | None = None
    result: Any = None
    error: BaseException | None = None
    began: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is done or has failed."""
        return self.state in ("done", "failed")

    @property
    def reason(self) -> str | None:
        """Why it has failed, for people. It quotes no document."""
        if self.error is None:
            return None
        if isinstance(self.error, ColBERTError | OSError | MemoryError):
            return message_of(self.error)
        return "The server failed. Its log has the reason."


class Jobs:
    """Runs one job after the other. All write, and encode most of the time.

    Args:
        on_failure: called in another thread with each job that has failed.
    """

    def __init__(self, on_failure: Callable[[Job], object] = lambda job: None) -> None:
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._worker = ThreadPoolExecutor(1, "mlx-colbert-job")
        self._is_ending = False

    def start(self, what: str, target: str, work: Callable[[Progress], Any]) -> Job:
        """Accept a job.

        Args:
            what: what it does, for people.
            target: what it changes.
            work: does it, and calls its argument as it goes.

        Raises:
            BusyError: if too many wait.
            ColBERTError: after `finish`.
        """
        job = Job(secrets.token_hex(8), what, target)
        with self._lock:
            if self._is_ending:
                raise ColBERTError(f"{what} of {target}: the process is being stopped. Start it again.")
            n_waiting = sum(other.state == "waiting" for other in self._jobs.values())
            if n_waiting >= _MOST_WAITING:
                raise BusyError(n_waiting, 10.0)
            ended = [other.id for other in self._jobs.values() if other.has_ended]
            for old in ended[: max(len(ended) - _MOST_ENDED, 0)]:
                del self._jobs[old]
            self._jobs[job.id] = job
            self._worker.submit(self._run, job, work)
        return job

    def get(self, job_id: str) -> Job | None:
        """The job with an id. None: there is none, or it ended long ago."""
        return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """All jobs that are known, the oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def finish(self) -> None:
        """End the job that runs at its next step. Those that wait fail."""
        with self._lock:
            self._is_ending = True
        self._worker.shutdown(wait=True, cancel_futures=True)
        for job in self.all():
            if job.state == "waiting":
                job.error = ColBERTError("the process was stopped before the job began.")
                job.ended, job.state = time.time(), "failed"

    def _run(self, job: Job, work: Callable[[Progress], Any]) -> None:
        def progress(stage: str, done: int, total: int | None) -> None:
            job.stage, job.n_done, job.n_all = stage, done, total
            if self._is_ending:
                raise ColBERTError("the process was stopped before the job ended. Start it again.")

        job.state = "running"
        try:
            job.result = work(progress)
            job.ended, job.state = time.time(), "done"
        except BaseException as error:
            job.error = error
            job.ended, job.state = time.time(), "failed"
            try:
                self._on_failure(job)
            finally:
                _forget_frames(error)


def _forget_frames(error: BaseException | None) -> None:
    """Take the tracebacks from an error and its causes. Their frames hold models and open indexes."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
