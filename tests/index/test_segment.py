"""Segment files: what numpy reads, where the data starts, what is refused."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest

from mlx_colbert.errors import IndexDamagedError
from mlx_colbert.index.storage import files, segment
from mlx_colbert.index.storage.codec import Codec
from mlx_colbert.index.storage.files import FileRecord, npy_header
from mlx_colbert.index.storage.records import SegmentRecord
from mlx_colbert.index.storage.segment_files import open_segment, write_compressed, write_exact
from mlx_colbert.types import CompressedRows

LABEL = "0a1b2c3d/segment"
LENGTHS = np.array([2, 1, 3], np.int64)
ROWS = np.arange(24).reshape(6, 4).astype(np.float16)


@pytest.fixture
def written(tmp_path):
    files = write_exact(tmp_path, 7, LABEL, lengths=LENGTHS, blocks=[ROWS[:4], ROWS[4:]], dim=4)
    return tmp_path, SegmentRecord(7, LABEL, "exact", 3, 6, 0, 0, files)


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
    with pytest.raises(IndexDamagedError, match=r"the catalog has \d+ bytes for it"):
        open_segment(*written, dim=2, codec=None)


def test_files_are_synced_before_the_name_and_the_name_before_return(tmp_path, monkeypatch):
    steps = []
    rename = os.rename
    monkeypatch.setattr(files, "sync", lambda descriptor: steps.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", lambda *names: (steps.append("rename"), rename(*names)))

    write_exact(tmp_path, 1, LABEL, lengths=LENGTHS, blocks=[ROWS], dim=4)

    folder = tmp_path / "segment-000001"
    synced = [folder / "doc_lengths.npy", folder / "vectors.npy", folder]
    assert steps == [*(path.stat().st_ino for path in synced), "rename", tmp_path.stat().st_ino]


def test_failed_write_leaves_no_folder(tmp_path):
    def failing():
        yield ROWS[:2]
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        write_exact(tmp_path, 1, LABEL, lengths=LENGTHS, blocks=failing(), dim=4)

    assert list(tmp_path.iterdir()) == []


def codec_of(n_centroids, dim=8):
    """A codec that no row is compressed with."""
    rng = np.random.default_rng(0)
    codebook, rotation = rng.standard_normal((256, 2)).astype(np.float32), np.eye(dim, dtype=np.float32)
    return Codec(
        4, np.ones((n_centroids, dim), np.int8), np.ones(n_centroids, np.float32), codebook, rotation, 0.0
    )


def compressed_rows(n, n_centroids, scales=(0.5, 0.6), gains=(0.99, 1.01)):
    rng = np.random.default_rng(1)
    return CompressedRows(
        rng.integers(0, n_centroids, n).astype(np.uint32),
        rng.integers(0, 256, (n, 4)).astype(np.uint8),
        rng.uniform(*scales, n).astype(np.float32),
        rng.uniform(*gains, n).astype(np.float32),
    )


def write_and_open(path, rows, codec, lengths):
    half = len(rows.codes) // 2
    blocks = [
        CompressedRows(rows.codes[part], rows.residuals[part], rows.scales[part], rows.gains[part])
        for part in (slice(half), slice(half, None))
    ]
    written = write_compressed(
        path, 3, LABEL, lengths=np.array(lengths, np.int64), blocks=blocks, codec=codec
    )
    record = SegmentRecord(3, LABEL, "compressed", len(lengths), sum(lengths), 0, 0, written)
    record.folder(path).check_contents()
    return open_segment(path, record, dim=8, codec=codec)


def records_of(folder):
    return tuple(
        FileRecord(path.name, path.stat().st_size, zlib.crc32(path.read_bytes())) for path in folder.iterdir()
    )


@pytest.mark.parametrize(("n_centroids", "code_bytes"), [(1, 1), (256, 1), (257, 2), (65_536, 2)])
def test_compressed_rows_come_back(tmp_path, n_centroids, code_bytes):
    rows = compressed_rows(600, n_centroids)

    opened = write_and_open(tmp_path, rows, codec_of(n_centroids), [1, 599])
    found = opened.rows(slice(None))

    np.testing.assert_array_equal(found.codes, rows.codes)
    np.testing.assert_array_equal(found.residuals, rows.residuals)
    # A byte each: half a step of 1/255 of the spread.
    np.testing.assert_allclose(found.scales, rows.scales, atol=0.1 / 255 / 2 * 1.01)
    np.testing.assert_allclose(found.gains, rows.gains, atol=0.02 / 255 / 2 * 1.01)
    assert (found.scales.dtype, found.gains.dtype) == (np.float32, np.float32)
    assert (tmp_path / "segment-000003" / "codes.npy").stat().st_size == 16384 + 600 * code_bytes
    np.testing.assert_array_equal(opened.offsets, [0, 1, 600])


def test_scales_and_gains_of_a_wide_spread_are_not_rounded(tmp_path):
    rows = compressed_rows(600, 9, scales=(0, 1e5), gains=(0, 6e4))
    rows.scales[:590], rows.gains[:590] = 1e-3, 1e-3

    found = write_and_open(tmp_path, rows, codec_of(9), [600]).rows(slice(None))

    np.testing.assert_array_equal(found.scales, rows.scales)
    np.testing.assert_array_equal(found.gains, rows.gains)


@pytest.mark.parametrize("value", [0, 0.25, 7e4])
def test_equal_scales_and_gains_come_back_as_they_are(tmp_path, value):
    rows = compressed_rows(50, 9, scales=(value, value), gains=(value, value))

    found = write_and_open(tmp_path, rows, codec_of(9), [50]).rows(np.array([3, 40]))

    assert found.scales.tolist() == found.gains.tolist() == [value, value]


def test_live_compressed_rows_skip_deleted_documents_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "BLOCK_ROWS", 4)
    rows = compressed_rows(10, 9)
    opened = write_and_open(tmp_path, rows, codec_of(9), [3, 5, 2])

    blocks = list(opened.live_rows(np.array([True, False, True])))

    np.testing.assert_array_equal(
        np.concatenate([block.codes for block in blocks]), rows.codes[[0, 1, 2, 8, 9]]
    )
    np.testing.assert_array_equal(
        np.concatenate([block.residuals for block in blocks]), rows.residuals[[0, 1, 2, 8, 9]]
    )


def test_written_postings_are_those_of_the_codes(tmp_path):
    rows = compressed_rows(40, 9)
    rows.codes[:] = np.repeat([4, 2, 8, 4], 10)

    postings = write_and_open(tmp_path, rows, codec_of(9), [5, 15, 20]).postings

    assert [part.tolist() for part in postings.find(np.array([2, 4, 8, 3]))] == [
        [1, 0, 1, 2, 2],
        [1, 3, 1, 0],
    ]


@pytest.mark.parametrize("name", ["scales", "gains"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-3, 3e38])
def test_scale_or_gain_that_cannot_be_is_damage(tmp_path, name, value):
    rows = compressed_rows(600, 9, scales=(0, 1e5), gains=(0, 6e4))
    rows.scales[:590], rows.gains[:590] = 1e-3, 1e-3
    write_and_open(tmp_path, rows, codec_of(9), [600])
    file = tmp_path / "segment-000003" / f"{name}.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-4] + np.array(value, "<f4").tobytes())
    record = SegmentRecord(3, LABEL, "compressed", 1, 600, 0, 0, records_of(tmp_path / "segment-000003"))

    opened = open_segment(tmp_path, record, dim=8, codec=codec_of(9))

    opened.rows(slice(599))
    with pytest.raises(IndexDamagedError, match=f"{name}.npy: it has a number that is out of range"):
        opened.rows(slice(None))


def test_code_of_no_centroid_is_damage(tmp_path):
    write_and_open(tmp_path, compressed_rows(40, 200), codec_of(200), [40])
    file = tmp_path / "segment-000003" / "codes.npy"
    file.write_bytes(file.read_bytes()[:-1] + bytes([200]))
    record = SegmentRecord(3, LABEL, "compressed", 1, 40, 0, 0, records_of(tmp_path / "segment-000003"))

    opened = open_segment(tmp_path, record, dim=8, codec=codec_of(200))

    assert len(opened.codes(slice(39))) == 39
    for read in (opened.codes, opened.rows):
        with pytest.raises(IndexDamagedError, match=r"codes.npy: it has a code without a centroid"):
            read(np.array([39]))
