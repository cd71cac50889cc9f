"""What an open index takes of the system: maps and file descriptors."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from killing import unit_rows
from test_index import DIM

from mlx_colbert.index import Index
from mlx_colbert.index.search import pool
from mlx_colbert.index.writing import merge_policy


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An index of compressed and exact segments."""
    monkeypatch.setattr(merge_policy, "SMALLEST_TOKENS", 8)
    monkeypatch.setattr(merge_policy, "FAN_OUT", 100)
    with Index.create(tmp_path / "index", DIM, nbits=8, exact_tokens=0, backend="numpy") as index:
        for i in range(6):
            index.add([f"c{i}"], [unit_rows(i, 20)], ["word"])
        for i in range(6):
            index.add([f"e{i}"], [unit_rows(i, 4)], ["word"])
        assert (index.info().segments, index.info().compressed_passages) == (12, 6)
        return index.path


def vectors(index):
    with index._open.pool.searcher() as searcher, searcher.snapshot() as snapshot:
        return [
            part.segment.embeddings.vectors
            for part in snapshot.segments
            if not hasattr(part.segment, "postings")
        ]


def test_file_is_mapped_once_for_all_searchers_and_indexes(path):
    with Index.open(path, backend="numpy") as index, Index.open(path, backend="numpy") as other:
        with index._open.pool.searcher():  # so that the next one is another
            second = vectors(index)
        for mine, theirs, again in zip(vectors(index), vectors(other), second, strict=True):
            assert mine.ctypes.data == theirs.ctypes.data == again.ctypes.data


def test_map_of_a_removed_segment_is_given_back(path):
    from mlx_colbert.index.storage import files

    with Index.open(path, backend="numpy") as index:
        index.search(unit_rows(0))
        before = len(files._MAPS)
        index.compact()
        index.search(unit_rows(0))
        assert len(files._MAPS) < before


def test_searchers_are_never_more_than_the_bound(path):
    n_threads = 3 * pool._MOST
    started = Barrier(n_threads)
    with Index.open(path, backend="numpy") as index, ThreadPoolExecutor(n_threads) as threads:

        def search(seed):
            started.wait()
            return len(index.search(unit_rows(seed), 100))

        assert set(threads.map(search, range(n_threads))) == {12}
        assert len(index._open.pool._idle) <= pool._MOST


MANY_THREADS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import numpy as np
from mlx_colbert.index import Index
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
started = Barrier(100)
with Index.open(sys.argv[1], backend="numpy") as index, ThreadPoolExecutor(100) as pool:
    def work(seed):
        started.wait()
        rows = np.random.default_rng(seed).standard_normal((4, 8))
        for _ in range(3):
            assert len(index.search(rows, 100)) >= 12
            assert len(index.search_keywords("word", 100)) >= 12
        if seed % 25 == 0:
            index.add([f"new {seed}"], [rows])
    for job in [pool.submit(work, seed) for seed in range(100)]:
        job.result()
    print(len(index), index.verify())
"""


@pytest.mark.slow
def test_hundred_threads_search_within_the_file_descriptors_of_a_mac(path):
    command = [sys.executable, "-c", MANY_THREADS, str(path)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "16 []\n"


def test_arrays_of_no_rows_can_be_mapped(tmp_path):
    from mlx_colbert.index.storage.files import Folder, NpyFile, write_folder

    empty = NpyFile.of("empty.npy", np.zeros(0, np.uint8), header_bytes=16384)
    records = write_folder(tmp_path / "segment-000001", "label", [empty])
    folder = Folder(tmp_path / "segment-000001", records, "label")
    assert folder.map("empty.npy", "|u1", (0,)).shape == (0,)
