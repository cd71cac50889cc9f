"""Work that takes long."""

import threading
import time
import weakref

import pytest

from mlx_colbert.engine.jobs import Jobs
from mlx_colbert.errors import BusyError, StoppingError


def ended(job):
    deadline = time.monotonic() + 60
    while not job.has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return job


def test_job_tells_how_far_it_is_and_what_it_returned():
    jobs, may_go_on, is_there = Jobs(), threading.Event(), threading.Event()

    def work(progress):
        progress("encoding", 3, 10)
        is_there.set()
        may_go_on.wait(30)
        return {"passages": 10}

    job = jobs.start("sync", "notes", work)
    assert is_there.wait(30)
    assert (job.state, job.stage, job.n_done, job.n_all) == ("running", "encoding", 3, 10)
    may_go_on.set()
    assert ended(job).state == "done" and jobs.get(job.id).result == {"passages": 10}
    assert jobs.get("no") is None
    jobs.finish()


def test_job_that_fails_keeps_its_error_and_the_next_one_runs():
    told = []
    jobs = Jobs(told.append)

    def fail(progress):
        raise ValueError("no")

    failed, done = jobs.start("sync", "a", fail), jobs.start("sync", "b", lambda progress: 1)
    assert str(ended(failed).error) == "no" and ended(done).result == 1
    jobs.finish()
    assert told == [failed]


def test_too_many_jobs_are_refused_and_those_that_wait_at_the_end_fail():
    jobs, may_go_on, is_there = Jobs(), threading.Event(), threading.Event()
    first = jobs.start("sync", "a", lambda progress: is_there.set() or may_go_on.wait(30))
    assert is_there.wait(30)
    waiting = [jobs.start("sync", "a", lambda progress: 1) for _ in range(32)]
    with pytest.raises(BusyError):
        jobs.start("sync", "a", lambda progress: 1)
    may_go_on.set()
    jobs.finish()
    assert first.state == "done" and all(job.has_ended for job in waiting)


def test_job_that_runs_at_the_end_stops_at_its_next_step():
    jobs, is_there = Jobs(), threading.Event()

    def work(progress):
        while True:
            progress("encoding", 1, None)
            is_there.set()

    job = jobs.start("sync", "a", work)
    assert is_there.wait(30)
    jobs.finish()
    assert job.state == "failed" and "was stopped before the job ended" in str(job.error)


def test_job_that_runs_is_told_to_stop_without_a_wait_for_it():
    jobs, may_go_on = Jobs(), threading.Event()

    def work(progress):
        assert may_go_on.wait(60)
        progress("encoding", 1, None)

    job = jobs.start("sync", "a", work)
    jobs.stop()
    assert jobs.is_stopping and not job.has_ended
    may_go_on.set()
    assert ended(job).state == "failed"
    jobs.finish()


def test_only_the_last_jobs_are_known():
    jobs = Jobs()
    first = ended(jobs.start("sync", "a", lambda progress: 1))
    for _ in range(102):
        ended(jobs.start("sync", "a", lambda progress: 1))
    assert jobs.get(first.id) is None and len(jobs.all()) <= 102
    jobs.finish()


def test_job_after_the_end_is_refused_and_not_known():
    jobs = Jobs()
    jobs.finish()
    with pytest.raises(StoppingError, match="sync of a: this process is being stopped"):
        jobs.start("sync", "a", lambda progress: 1)
    assert jobs.all() == []


def test_failed_job_does_not_hold_what_it_worked_with():
    class Model:
        """What takes memory."""

    known, told = [], []

    def encode(model):
        raise ValueError("no")

    def work(progress):
        model = Model()
        known.append(weakref.ref(model))
        try:
            encode(model)
        except ValueError as error:
            raise RuntimeError("failed") from error

    jobs = Jobs(lambda job: told.append(job.error.__traceback__ is not None))
    job = ended(jobs.start("sync", "a", work))
    jobs.finish()
    assert told == [True] and str(job.error.__cause__) == "no"
    assert known[0]() is None
