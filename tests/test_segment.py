"""Segment files: what numpy reads, where the data starts, what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index import files, segment
from mlx_colbert.index.files import npy_header
from mlx_colbert.index.segment import SegmentRecord, open_segment, write_exact

LENGTHS = np.array([2, 1, 3], np.int64)
ROWS = np.arange(24).reshape(6, 4).astype(np.float16)


@pytest.fixture
def written(tmp_path):
    files = write_exact(tmp_path, 7, LENGTHS, [ROWS[:4], ROWS[4:]], dim=4)
    return tmp_path, SegmentRecord(7, "float16", 3, 6, 0, 0, files)


def test_numpy_reads_the_files(written):
    folder = written[0] / "segment-000007"

    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False, max_header_size=16384)
    lengths = np.load(folder / "doc_lengths.npy", allow_pickle=False)

    np.testing.assert_array_equal(vectors, ROWS)
    np.testing.assert_array_equal(lengths, LENGTHS)
    assert (vectors.dtype, lengths.dtype, vectors.flags.c_contiguous) == (np.float16, np.int32, True)


def test_vectors_start_on_a_page_of_apple_silicon(written):
    data = (written[0] / "segment-000007" / "vectors.npy").read_bytes()

    assert data[16384:] == ROWS.tobytes()
    assert len(npy_header("<f2", (2**40, 2**20), 16384)) == 16384


def test_opened_segment_maps_what_was_written(written):
    opened = open_segment(*written, dim=4, codec=None)

    np.testing.assert_array_equal(opened.embeddings.vectors, ROWS)
    np.testing.assert_array_equal(opened.embeddings.lengths, LENGTHS)
    assert not opened.embeddings.vectors.flags.writeable
    written[1].folder(written[0]).check_contents()


def test_live_rows_skip_deleted_documents_across_blocks(written, monkeypatch):
    monkeypatch.setattr(segment, "BLOCK_ROWS", 2)
    opened = open_segment(*written, dim=4, codec=None)

    blocks = list(opened.live_rows(np.array([False, True, True])))

    np.testing.assert_array_equal(np.concatenate(blocks), ROWS[2:])


def test_segment_of_another_dim_is_damaged(written):
    with pytest.raises(IndexDamagedError, match="header differs"):
        open_segment(*written, dim=2, codec=None)


def test_files_are_synced_before_the_name_and_the_name_before_return(tmp_path, monkeypatch):
    steps = []
    rename = os.rename
    monkeypatch.setattr(files, "_sync", lambda descriptor: steps.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", lambda *names: (steps.append("rename"), rename(*names)))

    write_exact(tmp_path, 1, LENGTHS, [ROWS], dim=4)

    folder = tmp_path / "segment-000001"
    synced = [folder / "doc_lengths.npy", folder / "vectors.npy", folder]
    assert steps == [*(path.stat().st_ino for path in synced), "rename", tmp_path.stat().st_ino]


def test_failed_write_leaves_no_folder(tmp_path):
    def failing():
        yield ROWS[:2]
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        write_exact(tmp_path, 1, LENGTHS, failing(), dim=4)

    assert list(tmp_path.iterdir()) == []
