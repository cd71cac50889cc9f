"""The centroid codec: what decoding gives back, and what codes stay valid."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import meanings, spread, unit
from codebooks import trained_codebook

from mlx_colbert.index.storage import codec as codec_module
from mlx_colbert.index.storage.codec import Codec, code_type, n_centroids_for, normal_codebook, train_codec
from mlx_colbert.index.storage.codec_files import open_codec, write_codec
from mlx_colbert.index.storage.kmeans import Assigner, nearest_centroid
from mlx_colbert.index.storage.records import CodecRecord
from mlx_colbert.kernels import get_search_ops

# Mean squared error of the best quantiser of a standard normal number: Max 1960, table I, for 1, 2 and 4
# bits; Panter & Dite's sqrt(3) pi / 2 / levels² for 8.
SCALAR_ERROR = {1: 0.3634, 2: 0.1175, 4: 0.009497, 8: 4.15e-5}
# No code does better: the rate-distortion function, 2^(-2 bits).
LEAST_ERROR = {bits: 4.0**-bits for bits in (1, 2, 4, 8)}


def clustered(n, dim, n_clusters=40, seed=0):
    rng = np.random.default_rng(seed)
    return spread(rng, meanings(rng, n_clusters, dim)[rng.integers(0, n_clusters, n)], 0.5)


def there_and_back(ops, codec, rows):
    return codec.decode(codec.encode(ops, Assigner.build(ops, codec.centroids), rows))


@pytest.fixture
def trained(search_ops):
    return train_codec(search_ops, clustered(2000, 32), n_centroids=40, nbits=4)


@pytest.mark.slow
@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
@pytest.mark.parametrize("dim", [48, 64, 96, 128, 384])
def test_error_is_that_of_a_normal_source(dim, nbits):
    ops = get_search_ops("numpy")
    # Around one centroid of about zero the residuals are the rows: spread evenly over the sphere, each
    # component is nearly normal.
    rows = unit(np.random.default_rng(dim).standard_normal((1500, dim)))

    decoded = there_and_back(ops, train_codec(ops, rows, n_centroids=1, nbits=nbits), rows)

    # Least squares leaves 1 - D of the squared length; at full length again the error is 2 (1 - sqrt(1 - D)).
    def at_full_length(d):
        return 2 * (1 - np.sqrt(1 - d))

    error = ((rows - decoded) ** 2).sum(axis=1).mean()
    worst = 1.03 * SCALAR_ERROR[nbits]
    # In 48 dimensions a sphere takes some 4 % less than 48 independent numbers.
    assert at_full_length(0.95 * LEAST_ERROR[nbits]) <= error <= at_full_length(worst)


@pytest.mark.parametrize(("nbits", "better"), [(1, 0.91), (2, 0.85)])
def test_few_bits_say_more_about_several_components_together(nbits, better):
    points = np.random.default_rng(1).standard_normal((20_000, 8 // nbits)).astype(np.float32)
    codes = nearest_centroid(get_search_ops("numpy"), points, normal_codebook(nbits))

    error = ((points - normal_codebook(nbits)[codes]) ** 2).mean()

    assert error <= better * SCALAR_ERROR[nbits]


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_unit_rows_decode_to_unit_rows(search_ops, nbits):
    rows = clustered(600, 32)

    decoded = there_and_back(search_ops, train_codec(search_ops, rows, n_centroids=12, nbits=nbits), rows)

    # float32 sums of 32 squares.
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("nbits", [1, 4])
@pytest.mark.parametrize("length", [0, 1e-3, 0.3, 7, 60_000])
def test_rows_of_other_lengths_keep_them_and_their_direction(search_ops, nbits, length):
    rows = clustered(400, 32)
    codec = train_codec(search_ops, rows, n_centroids=12, nbits=nbits)

    decoded = there_and_back(search_ops, codec, length * rows)

    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), length, rtol=1e-5, atol=1e-6)
    if length:
        cosines = np.einsum("nd,nd->n", decoded, rows) / length
        assert cosines.mean() >= {1: 0.88, 4: 0.997}[nbits]


def test_collection_of_one_constant_row_decodes_to_it(search_ops):
    rows = np.repeat(unit(np.arange(1, 33)[None]), 500, axis=0)

    codec = train_codec(search_ops, rows, n_centroids=8, nbits=4)
    decoded = there_and_back(search_ops, codec, rows)

    # The centroid is rounded to 1/127 of its largest component, and the residuals take up what that left.
    np.testing.assert_allclose(decoded, rows, atol=1e-3)
    assert np.isfinite(codec.outlier_distance)


@pytest.mark.parametrize("rows", [np.zeros((3, 16)), np.ones((1, 16)), np.eye(16)[:2]])
def test_very_small_samples_make_a_codec(search_ops, rows):
    codec = train_codec(search_ops, rows.astype(np.float16), n_centroids=5, nbits=8)

    decoded = there_and_back(search_ops, codec, rows)

    assert codec.n_centroids == min(5, len(rows))
    np.testing.assert_allclose(decoded, rows, atol=0.02)


def test_encoding_is_deterministic_and_blocks_do_not_matter(search_ops, trained):
    rows = clustered(300, 32, seed=1)
    assigner = Assigner.build(search_ops, trained.centroids)

    first, again = (trained.encode(search_ops, assigner, rows) for _ in range(2))
    halves = [trained.encode(search_ops, assigner, rows[part]) for part in (slice(100), slice(100, None))]

    for name in ("codes", "residuals", "scales", "gains"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert np.array_equal(first.codes, np.concatenate([half.codes for half in halves]))
    # A product of other sizes may round otherwise, and choose another of two codewords as near.
    differing = first.residuals != np.concatenate([half.residuals for half in halves])
    assert differing.mean() < 1e-3


def test_same_sample_gives_the_same_codec(search_ops, trained):
    again = train_codec(search_ops, clustered(2000, 32), n_centroids=40, nbits=4)

    for name in ("levels", "steps", "codebook", "rotation", "outlier_distance"):
        assert np.array_equal(getattr(trained, name), getattr(again, name))


def test_overwritten_sample_gives_the_same_codec(search_ops):
    rows = clustered(2000, 32).astype(np.float16)
    kept = rows.copy()

    codecs = [
        train_codec(search_ops, rows, n_centroids=40, nbits=4, overwrite=overwrite)
        for overwrite in (False, True)
    ]

    assert not np.array_equal(rows, kept)
    for name in ("levels", "steps", "codebook", "rotation", "outlier_distance"):
        assert np.array_equal(getattr(codecs[0], name), getattr(codecs[1], name))


def test_backends_code_alike():
    rows = clustered(1000, 32)
    codec = train_codec(get_search_ops("numpy"), rows, n_centroids=20, nbits=4)
    pytest.importorskip("mlx.core")

    decoded = [there_and_back(get_search_ops(name), codec, rows) for name in ("numpy", "mlx")]

    # A component on the border of two levels may fall on either side.
    assert np.mean(np.abs(decoded[0] - decoded[1]) > 1e-5) < 1e-3


def test_rows_are_compressed_by_their_nearest_centroid(search_ops, trained):
    rows = clustered(200, 32, seed=2)
    rotated = rows @ trained.rotation
    distances = ((rotated[:, None] - trained.centroids[None]) ** 2).sum(axis=2)

    compressed = trained.encode(search_ops, Assigner.build(search_ops, trained.centroids), rows)

    assert np.array_equal(compressed.codes, distances.argmin(axis=1))
    assert (compressed.codes.dtype, compressed.residuals.shape) == (np.uint8, (200, 16))
    assert (compressed.scales.dtype, compressed.gains.dtype) == (np.float32, np.float32)


def test_rotation_keeps_lengths_and_products(trained):
    rows = clustered(50, 32)

    rotated = trained.rotated(rows)

    np.testing.assert_allclose(trained.rotation @ trained.rotation.T, np.eye(32), atol=1e-5)
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-5)


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_components_together_leave_less_error_than_each_alone(nbits):
    words = normal_codebook(nbits)
    points = np.random.default_rng(7).standard_normal((20_000, words.shape[1])).astype(np.float32)

    distances = (points**2).sum(axis=1)[:, None] - 2 * points @ words.T + (words**2).sum(axis=1)

    assert distances.min(axis=1).mean() / words.shape[1] < 0.91 * SCALAR_ERROR[nbits]


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_codebook_has_a_codeword_for_each_byte(nbits):
    assert normal_codebook(nbits).shape == (256, 8 // nbits)
    assert len(np.unique(normal_codebook(nbits), axis=0)) == 256


@pytest.mark.slow
@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_codebook_that_ships_is_the_one_that_is_trained(nbits):
    # Another processor rounds differently, and a point may go to another codeword.
    np.testing.assert_allclose(normal_codebook(nbits), trained_codebook(nbits), atol=0.01)


def test_old_codes_stay_valid_in_an_extended_codec(search_ops, trained):
    rows, far = clustered(300, 32), clustered(400, 32, n_clusters=5, seed=9)
    compressed = trained.encode(search_ops, Assigner.build(search_ops, trained.centroids), rows)

    extended = trained.extended(search_ops, trained.rotated(far))

    assert extended.n_centroids == 40 + 400 // 32
    assert np.array_equal(extended.decode(compressed), trained.decode(compressed))


def test_new_centroids_serve_the_outliers_they_were_made_for(search_ops, trained):
    far = clustered(400, 32, n_clusters=5, seed=9)
    extended = trained.extended(search_ops, trained.rotated(far))

    before, after = (there_and_back(search_ops, codec, far) for codec in (trained, extended))
    compressed = extended.encode(search_ops, Assigner.build(search_ops, extended.centroids), far)

    assert (compressed.codes >= 40).mean() > 0.95
    assert ((after - far) ** 2).mean() < 0.5 * ((before - far) ** 2).mean()


def test_extended_codec_has_no_more_centroids_than_codes_can_say(search_ops, trained, monkeypatch):
    monkeypatch.setattr(codec_module, "_MAX_CENTROIDS", 43)

    extended = trained.extended(search_ops, trained.rotated(clustered(400, 32, seed=9)))

    assert extended.n_centroids == 43
    assert not extended.is_extensible


def test_outliers_are_the_rows_far_from_every_centroid(search_ops, trained):
    assigner = Assigner.build(search_ops, trained.centroids)
    near, far = clustered(2000, 32), clustered(100, 32, n_clusters=100, seed=9)

    found = trained.outliers(search_ops, assigner, np.concatenate([near, 5 * far]))

    # By definition 1 % of the sample, which was in float16.
    assert len(trained.outliers(search_ops, assigner, near)) == pytest.approx(20, abs=2)
    assert 110 <= len(found) <= 122
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("n_outliers", "n_sampled", "needed"),
    [(0, 0, False), (32, 100, False), (33, 100, True), (300, 10_000, False), (301, 10_000, True)],
)
def test_centroids_are_needed_for_three_times_the_usual_outliers(trained, n_outliers, n_sampled, needed):
    assert trained.needs_centroids(n_outliers, n_sampled) == needed


def test_codec_comes_back_from_its_files(trained, tmp_path):
    files = write_codec(tmp_path, 3, "x/codec-000003", trained)
    record = CodecRecord(3, "x/codec-000003", 4, trained.n_centroids, trained.outlier_distance, files)

    opened = open_codec(tmp_path, record, dim=32)

    for name in ("nbits", "levels", "steps", "codebook", "rotation", "outlier_distance", "centroids"):
        assert np.array_equal(getattr(opened, name), getattr(trained, name))
    assert opened.levels.dtype == np.int8


def test_codec_with_exact_centroids_comes_back_from_its_files(tmp_path):
    centroids = clustered(7, 16)
    codec = Codec(2, centroids, np.ones(7, np.float32), normal_codebook(2), np.zeros((0, 0), np.float32), 0.0)
    record = CodecRecord(1, "x/codec-000001", 2, 7, 0.0, write_codec(tmp_path, 1, "x/codec-000001", codec))

    opened = open_codec(tmp_path, record, dim=16)

    assert np.array_equal(opened.centroids, centroids)
    assert np.array_equal(opened.rotated(centroids), centroids)


@pytest.mark.parametrize(
    ("n", "name"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_codes_take_the_smallest_type(n, name):
    assert code_type(n) == np.dtype(name)


def test_number_of_centroids_follows_the_tokens_within_its_bounds():
    assert [n_centroids_for(n) for n in (0, 1, 127, 128, 10**9)] == [1, 1, 1, 2, 65536]
