"""The engine: places, callers that leave, and the end."""

import threading
import time

import pytest

from mlx_colbert.engine.engine import Engine
from mlx_colbert.errors import BusyError, StoppingError


def test_more_requests_than_places_are_refused_and_a_place_is_given_back():
    engine = Engine(n_workers=1, n_waiting=2)
    may_go_on = threading.Event()
    with engine.running():
        accepted = [engine.submit(lambda: may_go_on.wait(30)) for _ in range(3)]
        with pytest.raises(BusyError) as refused:
            engine.submit(print)
        assert 1 <= refused.value.retry_after_s <= 60 and "Try again" in str(refused.value)
        assert accepted[2].cancel()
        accepted.append(engine.submit(lambda: may_go_on.wait(30)))
        may_go_on.set()
        assert all(future.cancelled() or future.result(30) for future in accepted)
    assert engine.n_accepted == 0


def test_failed_work_gives_its_place_back():
    engine = Engine(n_workers=1, n_waiting=0)

    def fail():
        raise ValueError("no")

    with engine.running():
        for _ in range(3):
            future = engine.submit(fail)
            assert isinstance(future.exception(30), ValueError)
            deadline = time.monotonic() + 60
            while engine.n_accepted:
                assert time.monotonic() < deadline
                time.sleep(0.001)


def test_end_of_the_block_waits_for_what_was_accepted():
    engine = Engine(n_workers=2)
    done = []
    with engine.running():
        futures = [engine.submit(lambda: time.sleep(0.05) or done.append(1)) for _ in range(6)]
    assert len(done) == 6 and all(future.done() for future in futures)


def test_request_after_the_end_is_told_that_the_process_stops_and_has_no_place():
    engine = Engine(n_workers=1)
    with engine.running():
        pass
    with pytest.raises(StoppingError, match="Try again"):
        engine.submit(print)
    assert engine.n_accepted == 0


def test_engine_that_runs_or_has_ended_cannot_run_again():
    engine = Engine(n_workers=1)
    with engine.running():
        with pytest.raises(RuntimeError, match="Make another one"), engine.running():
            pass
        assert engine.submit(lambda: 1).result(30) == 1
    with pytest.raises(RuntimeError, match="Make another one"), engine.running():
        pass


def test_blas_has_one_thread_as_long_as_the_engine_runs():
    from mlx_colbert.kernels.threads import _libraries, blas_threads

    before = blas_threads()
    with Engine().running():
        assert {library.get_num_threads() for library in _libraries()} <= {1}
        # The kernels still use as many threads.
        assert blas_threads() == before
    assert blas_threads() == before
