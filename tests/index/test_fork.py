"""An open index in a forked process: no commit is lost, and what cannot work there is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_colbert.index import Index

pytestmark = pytest.mark.slow

# In a process of its own: a fork of the process that runs the tests would have its threads' locks.
PROLOGUE = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of threads
import numpy as np
from mlx_colbert.errors import BackendError, IndexStoreError
from mlx_colbert.index import Index

path, rows = sys.argv[1], [np.ones((1, 8))]

def forked(work):
    # Runs work(wait) in a child; wait() lets the parent go on, and returns when it says so.
    to_parent, to_child = os.pipe(), os.pipe()
    def wait():
        os.write(to_parent[1], b"x")
        os.read(to_child[0], 1)
    child = os.fork()
    if not child:
        os.close(to_child[1])
        try:
            work(wait)
            sys.stdout.flush()
        except BaseException as error:
            print("child:", type(error).__name__, error, flush=True)
        os._exit(0)
    os.close(to_parent[1])
    os.read(to_parent[0], 1)
    def end():
        os.close(to_child[1])
        os.waitpid(child, 0)
    return end
"""


def run(path, script):
    command = [sys.executable, "-c", PROLOGUE + script, str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def path(tmp_path):
    with Index.create(tmp_path / "index", 8, backend="numpy") as index:
        index.add(["parent"], [[[1.0] * 8]])
    return tmp_path / "index"


@pytest.mark.parametrize("own", ["index", "Index.open(path, backend='numpy')"])
def test_commits_of_a_forked_process_survive_the_parents_close(path, own):
    script = f"""
index = Index.open(path, backend="numpy")
index.add(["before"], rows)
def work(wait):
    mine = {own}
    mine.add(["first"], rows)
    wait()
    for i in range(5):
        mine.add([str(i)], rows)
    print(len(mine), len(mine.search(rows[0], 100)))
end = forked(work)
index.close()
end()
"""
    assert run(path, script) == "8 8\n"
    with Index.open(path, backend="numpy") as index:
        assert (len(index), index.verify()) == (8, [])


def test_forked_reader_follows_the_commits_of_its_parent(path):
    script = """
index = Index.open(path, backend="numpy")
index.search(rows[0])
def work(wait):
    print(len(index.search(rows[0])))
    wait()
    print(len(index.search(rows[0])), len(index), "later" in index)
end = forked(work)
index.upsert(["later"], rows)
index.compact()
end()
print(len(index.search(rows[0])))
"""
    assert run(path, script) == "1\n2 2 True\n2\n"


def test_parent_follows_the_commits_of_its_child(path):
    script = """
index = Index.open(path, backend="numpy")
index.search(rows[0])
forked(lambda wait: (index.add(["child"], rows), wait()))()
print(len(index.search(rows[0])), len(index))
index.add(["more"], rows)
print(len(index))
"""
    assert run(path, script) == "2 2\n3\n"


def test_index_in_use_at_the_fork_is_refused_in_the_child_and_goes_on_in_the_parent(path):
    script = """
index = Index.open(path, backend="numpy")
with index._open.pool.searcher() as searcher, searcher.catalog.read():
    def work(wait):
        for use in (lambda: len(index), lambda: index.add(["child"], rows),
                    lambda: Index.open(path, backend="numpy")):
            try:
                print("answered", use())
            except IndexStoreError as error:
                print("spawn" in str(error), "in use when this process was forked" in str(error))
    forked(work)()
    print(searcher.catalog.n_passages())
index.add(["parent again"], rows)
print(len(index))
"""
    assert run(path, script) == "True True\n" * 3 + "1\n2\n"


def test_fork_while_other_threads_search_and_write_hangs_nobody(path):
    script = """
index = Index.open(path, backend="numpy")
done = threading.Event()
def search():
    while not done.is_set():
        index.search(rows[0])
def write():
    n = 0
    while not done.is_set():
        index.upsert([str(n % 3)], rows)
        n += 1
threads = [threading.Thread(target=target) for target in (search, search, write)]
for thread in threads:
    thread.start()
answers = set()
for _ in range(20):
    def work(wait):
        try:
            index.add([f"child {os.getpid()}"], rows)
            os._exit(1)
        except IndexStoreError:
            os._exit(0)
    child = os.fork()
    if not child:
        work(None)
    answers.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
for thread in threads:
    thread.join()
print(answers <= {0, 1}, index.verify())
"""
    assert run(path, script) == "True []\n"


def test_mlx_is_refused_in_a_forked_process(path):
    pytest.importorskip("mlx.core")
    script = """
index = Index.open(path, backend="mlx")
index.search(rows[0])
def work(wait):
    try:
        index.search(rows[0])
    except BackendError as error:
        print(error)
forked(work)()
print(len(index.search(rows[0])))
"""
    refusal, parent = run(path, script).splitlines()
    assert '"spawn"' in refusal
    assert 'backend="numpy"' in refusal
    assert parent == "1"


def test_mlx_is_refused_in_a_forked_process_that_imports_its_kernels_first(path):
    pytest.importorskip("mlx.core")
    code = f"""
import os, signal
import numpy as np
import mlx.core as mx
from mlx_colbert.errors import BackendError
from mlx_colbert.index import Index
mx.eval(mx.ones((3, 3)) @ mx.ones((3, 3)))
if process := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
signal.alarm(300)  # MLX would wait for ever
try:
    Index.open({str(path)!r}, backend="mlx").search(np.ones((1, 8)))
except BackendError:
    os._exit(0)
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize("given", ["array", "[array]", "[[array[0]]]"])
def test_mlx_array_is_refused_in_a_forked_process_whatever_the_backend(path, given):
    pytest.importorskip("mlx.core")
    script = f"""
import mlx.core as mx
index = Index.open(path, backend="numpy")
array = mx.ones((1, 8)) + 1
mx.eval(array)
def work(wait):
    wait()
    array = mx.ones((1, 8)) + 1
    index.search({given})
forked(work)()
"""
    assert "child: BackendError an MLX array cannot be read" in run(path, script)
