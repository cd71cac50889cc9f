"""Threads for independent pieces of numpy work: how many there are, and what BLAS has meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from mlx_colbert import ColBERT, Index, maxsim
from mlx_colbert.errors import ConfigError
from mlx_colbert.kernels import numpy_encoder
from mlx_colbert.kernels.threads import mapped, n_threads, one_blas_thread


def blas_counts() -> list[int]:
    blas = ThreadpoolController().select(user_api="blas")
    return [library.num_threads for library in blas.lib_controllers]


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_THREADS", "4")


@pytest.mark.parametrize("given", ["1", "3"])
def test_variable_says_how_many_threads_there_are(given, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_THREADS", given)
    assert n_threads() == int(given)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "²"])
def test_number_of_threads_that_is_none_is_refused(given, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_THREADS", given)
    with pytest.raises(ConfigError, match=f"MLX_COLBERT_THREADS: '{given}' is not a number of 1 or more"):
        n_threads()


def test_without_the_variable_blas_and_the_cores_say_it(monkeypatch):
    monkeypatch.delenv("MLX_COLBERT_THREADS", raising=False)
    blas = ThreadpoolController().select(user_api="blas")
    with blas.limit(limits=1):
        assert n_threads() == 1


def test_blas_has_one_thread_within_nested_blocks_and_its_own_after():
    before = blas_counts()
    with one_blas_thread(), one_blas_thread():
        assert set(blas_counts()) <= {1}
    assert blas_counts() == before


def test_blas_has_one_thread_in_a_block_of_any_thread():
    """Also when another thread was the first to set the number."""
    before = blas_counts()
    with one_blas_thread():
        pass
    found = []

    def look():
        with one_blas_thread():
            found.append(blas_counts())
        found.append(blas_counts())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[1] * len(before), before]


def test_every_helper_computes_with_one_blas_thread(four_threads):
    before = blas_counts()
    assert {tuple(counts) for counts in mapped(lambda _: blas_counts(), range(8))} == {(1,) * len(before)}
    assert blas_counts() == before


def test_calls_within_calls_have_no_more_helpers_together(four_threads):
    names: set[str] = set()

    def inner(_: int) -> None:
        names.update(thread.name for thread in threading.enumerate())
        assert sum(thread.name == "mlx-colbert" for thread in threading.enumerate()) <= 3

    def outer(_: int) -> int:
        return len(list(mapped(inner, range(4))))

    assert list(mapped(outer, range(16))) == [4] * 16


def test_one_thread_computes_in_the_thread_of_the_caller(monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_THREADS", "1")
    here = threading.get_ident()
    assert set(mapped(lambda _: threading.get_ident(), range(5))) == {here}


def test_work_is_done_where_no_thread_can_be_started(four_threads, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert list(mapped(abs, range(8))) == list(range(8))


def test_error_of_a_helper_reaches_the_caller_and_the_helpers_end(four_threads):
    here, failed = threading.get_ident(), threading.Event()

    def work(number: int) -> int:
        if threading.get_ident() == here:
            failed.wait()
            return number
        failed.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(mapped(work, range(8)))
    assert not [thread for thread in threading.enumerate() if thread.name == "mlx-colbert"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_child_that_is_forked_within_a_call_computes_on(four_threads):
    before, found = blas_counts(), mapped(abs, range(64))
    assert next(found) == 0
    child = os.fork()
    if child == 0:
        alone = blas_counts() == before and list(mapped(abs, range(64))) == list(range(64))
        found.close()
        os._exit(0 if alone and blas_counts() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
    found.close()
    assert blas_counts() == before


def test_search_at_exit_finds_what_it_should(tmp_path):
    code = (
        "import atexit, sys, numpy as np; from mlx_colbert import Index\n"
        "index = Index.create(sys.argv[1], 8, backend='numpy')\n"
        "rows = np.eye(8, dtype=np.float32)\n"
        "index.add([str(n) for n in range(5000)], [rows] * 5000)\n"
        "atexit.register(lambda: print(index.search(rows, 1)[0].doc_id))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "index")]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env={**os.environ, "MLX_COLBERT_THREADS": "4"}
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def recorded(monkeypatch, owner, name, found):
    real = getattr(owner, name)

    def record(*arguments, **named):
        found.append(max(blas_counts(), default=1))
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, record)


def test_query_is_encoded_with_one_blas_thread(data, monkeypatch):
    model = ColBERT.load(data / "checkpoints" / "pylate-bert", backend="numpy")
    found: list[int] = []
    recorded(monkeypatch, numpy_encoder, "linear", found)
    model.encode_query("Who wrote it?")
    assert set(found) == {1}


def test_documents_are_scored_searched_and_compressed_with_one_blas_thread(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    found: list[int] = []
    recorded(monkeypatch, np, "matmul", found)
    maxsim(rows, [rows], backend="numpy")
    with Index.create(tmp_path / "index", 16, exact_tokens=0, backend="numpy") as index:
        index.add(["a", "b"], [rows, rows[:3]])
        index.search(rows)
    assert len(found) > 5 and set(found) == {1}
