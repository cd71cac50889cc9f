"""The kernels of each backend against values by hand and against numpy."""

from __future__ import annotations

import math
import os
import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from mlx_colbert.errors import BackendError, ConfigError
from mlx_colbert.kernels import get_encoder_ops
from mlx_colbert.kernels.half import widen
from mlx_colbert.kernels.threads import blas_threads
from mlx_colbert.types import TokenEmbeddings

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_gelu_is_x_times_the_normal_distribution_function(encoder_ops):
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
    np.testing.assert_allclose(
        encoder_ops.to_numpy(encoder_ops.activate("gelu", encoder_ops.asarray(x.copy()))),
        expected,
        atol=1.5e-6,
    )


@pytest.mark.parametrize(
    ("activation", "at_minus_one", "at_two"),
    [
        ("identity", -1.0, 2.0),
        ("gelu_tanh", -0.158808, 1.954598),
        ("relu", 0.0, 2.0),
        ("silu", -0.268941, 1.761594),
        ("tanh", -0.761594, 0.964028),
        ("sigmoid", 0.268941, 0.880797),
    ],
)
def test_activation_has_its_known_values(encoder_ops, activation, at_minus_one, at_two):
    x = encoder_ops.asarray(np.array([-1.0, 2.0], np.float32))
    values = encoder_ops.to_numpy(encoder_ops.activate(activation, x))
    np.testing.assert_allclose(values, [at_minus_one, at_two], atol=2e-6)


def test_linear_multiplies_by_the_transposed_matrix_and_adds_the_bias(encoder_ops):
    tensors = {
        "f.weight": np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]),
        "f.bias": np.array([1.0, 0.0, -1.0]),
    }
    params = encoder_ops.load_params({k: v.astype(np.float32) for k, v in tensors.items()}, "float32")
    x = encoder_ops.asarray(np.array([[[1.0, 1.0], [2.0, 0.0]]], np.float32))
    assert encoder_ops.to_numpy(encoder_ops.linear(params, "f", x)).tolist() == [
        [[4.0, 1.0, 2.0], [3.0, 0.0, 5.0]]
    ]


def test_layer_norm_has_mean_zero_and_variance_one_before_weight_and_bias(encoder_ops):
    params = encoder_ops.load_params(
        {"n.weight": np.full(4, 2.0, np.float32), "n.bias": np.ones(4, np.float32)}, "float32"
    )
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    expected = 2 * (x - 2.5) / np.sqrt(1.25) + 1
    np.testing.assert_allclose(
        encoder_ops.to_numpy(encoder_ops.layer_norm(params, "n", encoder_ops.asarray(x), 1e-12)),
        expected,
        rtol=1e-6,
    )


def test_rope_turns_each_pair_by_position_times_frequency(encoder_ops):
    x = np.ones((1, 1, 3, 4), np.float32)
    turned = encoder_ops.to_numpy(encoder_ops.rope(encoder_ops.asarray(x), 100.0))
    # Dh = 4: frequencies 1 and 100^(-1/2); halves are paired: (0, 2) and (1, 3).
    for position in range(3):
        for pair, angle in ((0, position), (1, position * 0.1)):
            first, second = turned[0, 0, position, pair], turned[0, 0, position, pair + 2]
            assert first == pytest.approx(math.cos(angle) - math.sin(angle), abs=1e-6)
            assert second == pytest.approx(math.cos(angle) + math.sin(angle), abs=1e-6)


def attention_by_hand(q, k, v, allowed, window=None, slopes=(0.0, 0.0, 0.0)):
    out = np.zeros_like(q)
    for b, h, i in np.ndindex(q.shape[:3]):
        keys = [j for j in np.flatnonzero(allowed[b]) if window is None or abs(i - j) <= window]
        scores = [q[b, h, i] @ k[b, h, j] / math.sqrt(q.shape[3]) - slopes[h] * abs(i - j) for j in keys]
        weights = np.exp(np.array(scores) - max(scores, default=0))
        for weight, j in zip(weights / weights.sum() if keys else [], keys, strict=True):
            out[b, h, i] += weight * v[b, h, j]
    return out


SLOPES = np.array([0.5, 0.25, 2.0], np.float32)


@pytest.mark.parametrize(("window", "slopes"), [(None, None), (1, None), (3, None), (None, SLOPES)])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("blocks", ["whole", "by rows", "by heads and rows"])
def test_attention_is_the_softmax_of_what_may_be_attended_to(
    encoder_ops, monkeypatch, window, slopes, masked, blocks
):
    if blocks != "whole":
        cells = {"by rows": 3 * 4 * 40, "by heads and rows": 1}[blocks]
        monkeypatch.setattr(encoder_ops, "_SCORE_CELLS", cells if encoder_ops.name == "numpy" else 2 * cells)
        monkeypatch.setattr(encoder_ops, "_SCORE_ROWS", 4, raising=False)
        monkeypatch.setattr(encoder_ops, "length_multiple", 4)
    q, k, v = (normal(2, 3, 40, 8) for _ in range(3))
    allowed = RANDOM.random((2, 40)) < 0.7
    allowed[1, 10:30] = False  # rows that a window leaves without a key
    if not masked:
        allowed[:] = True
    keys = encoder_ops.asarray(allowed) if masked else None
    out = encoder_ops.attention(
        encoder_ops.asarray(q), encoder_ops.asarray(k), encoder_ops.asarray(v), keys, window, slopes
    )
    expected = attention_by_hand(q, k, v, allowed, window, (0, 0, 0) if slopes is None else slopes)
    np.testing.assert_allclose(encoder_ops.to_numpy(out), expected, atol=1e-5)


def test_attention_where_nothing_is_attended_to_is_zero(encoder_ops):
    q = encoder_ops.asarray(normal(1, 2, 5, 8))
    assert not encoder_ops.to_numpy(
        encoder_ops.attention(q, q, q, encoder_ops.asarray(np.zeros((1, 5), bool)))
    ).any()


def test_attention_of_large_scores_does_not_overflow(encoder_ops):
    q, k, v = normal(1, 3, 6, 8) * 60, normal(1, 3, 6, 8) * 60, normal(1, 3, 6, 8)
    k[:, 1] *= 0.001  # one head with scores that need no care
    out = encoder_ops.to_numpy(
        encoder_ops.attention(encoder_ops.asarray(q), encoder_ops.asarray(k), encoder_ops.asarray(v), None)
    )
    np.testing.assert_allclose(out, attention_by_hand(q, k, v, np.ones((1, 6), bool)), atol=1e-4)


@pytest.mark.parametrize(("window", "slopes"), [(None, None), (2, None), (None, SLOPES[:2])])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_row_without_any_key_stays_finite_in_half_precision(dtype, window, slopes):
    mx = pytest.importorskip("mlx.core")
    ops = get_encoder_ops("mlx")
    q = mx.array(normal(1, 2, 32, 8)).astype(getattr(mx, dtype))
    keys = np.zeros((1, 32), bool)
    keys[0, :16] = slopes is None
    assert np.isfinite(ops.to_numpy(ops.attention(q, q, q, mx.array(keys), window, slopes))).all()


def test_batches_are_mapped_in_order(encoder_ops):
    assert list(encoder_ops.mapped(lambda number: number * number, [3, 1, 2, 5])) == [9, 1, 4, 25]
    assert list(encoder_ops.mapped(abs, [])) == []


def test_blas_has_its_threads_again_after_batches_that_overlap():
    numpy_encoder, threads = get_encoder_ops("numpy"), ThreadpoolController().select(user_api="blas")
    before = [library.num_threads for library in threads.lib_controllers]
    batches = range(max(before) + 2)
    first, second = (numpy_encoder.mapped(abs, batches) for _ in range(2))
    assert (next(first), next(second)) == (0, 0)
    assert list(first) == list(second) == list(batches)[1:]
    assert [library.num_threads for library in threads.lib_controllers] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_child_that_is_forked_meanwhile_counts_for_itself():
    numpy_encoder, n_threads = get_encoder_ops("numpy"), blas_threads()
    found = numpy_encoder.mapped(abs, range(64))
    assert next(found) == 0
    child = os.fork()
    if child == 0:
        mapped = list(numpy_encoder.mapped(abs, range(64))) == list(range(64))
        os._exit(0 if mapped and blas_threads() == n_threads else 1)
    assert os.waitpid(child, 0)[1] == 0
    found.close()


def test_encoding_minds_no_strict_numpy():
    numpy_encoder = get_encoder_ops("numpy")
    x = np.array([[-1e4, -60.0, 0.0, 60.0, 1e4]], np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_allclose(numpy_encoder.activate("gelu", x.copy()), np.maximum(x, 0))
        q = np.array([[[[9.0], [-9.0]]]], np.float32)
        assert np.isfinite(numpy_encoder.attention(q, q, q, None)).all()


def test_batches_may_be_left_early(encoder_ops):
    before = threading.active_count()
    found = encoder_ops.mapped(abs, range(100))
    assert next(found) == 0
    found.close()
    assert threading.active_count() == before


def test_weights_of_float32_are_halved_on_a_gpu_and_not_on_the_cpu(monkeypatch):
    mlx_encoder = pytest.importorskip("mlx_colbert.kernels.mlx_encoder")
    for on_gpu, expected in ((True, ["float16", "float16", "bfloat16"]), (False, ["float32"] * 3)):
        monkeypatch.setattr(mlx_encoder, "_on_gpu", lambda on_gpu=on_gpu: on_gpu)
        assert [mlx_encoder.default_dtype(d) for d in ("float32", "float16", "bfloat16")] == expected


def test_error_in_a_batch_is_raised_and_the_threads_end(encoder_ops):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(encoder_ops.mapped(lambda number: 1 // number, [1, 0, 2, 3]))
    assert threading.active_count() == before


def test_normalize_gives_unit_rows_and_leaves_zero_rows(encoder_ops):
    rows = encoder_ops.to_numpy(
        encoder_ops.normalize(encoder_ops.asarray(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)))
    )
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def maxsim_by_hand(queries, documents):
    return [[(q @ d.T.astype(np.float32)).max(axis=1).sum() for d in documents] for q in queries]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_maxsim_is_the_sum_of_row_maxima(search_ops, dtype):
    queries = TokenEmbeddings.pack([normal(n, 16) for n in (1, 32, 7)])
    documents = TokenEmbeddings.pack([normal(n, 16).astype(dtype) for n in RANDOM.integers(1, 300, 90)])
    expected = maxsim_by_hand(queries, documents)
    np.testing.assert_allclose(search_ops.maxsim(queries, documents), expected, rtol=1e-4, atol=1e-4)


def test_maxsim_scores_a_document_longer_than_a_block(search_ops, monkeypatch):
    monkeypatch.setattr(search_ops, "maxsim_rows", 10)
    queries = TokenEmbeddings.pack([normal(3, 8)])
    documents = TokenEmbeddings.pack([normal(n, 8) for n in (4, 25, 6, 1, 3)])
    np.testing.assert_allclose(
        search_ops.maxsim(queries, documents), maxsim_by_hand(queries, documents), rtol=1e-5, atol=1e-5
    )


def test_auto_is_numpy_where_mlx_has_no_gpu(monkeypatch):
    monkeypatch.delenv("MLX_COLBERT_BACKEND", raising=False)
    monkeypatch.setattr("mlx_colbert.kernels._mlx_has_gpu", lambda: False)
    assert get_encoder_ops("auto").name == "numpy"


def test_environment_variable_replaces_auto_only(monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_BACKEND", "numpy")
    monkeypatch.setattr("mlx_colbert.kernels._mlx_has_gpu", lambda: True)
    assert get_encoder_ops("auto").name == "numpy"
    monkeypatch.setenv("MLX_COLBERT_BACKEND", "torch")
    assert get_encoder_ops("numpy").name == "numpy"
    with pytest.raises(ConfigError, match="'torch' is not one of auto, mlx, numpy"):
        get_encoder_ops("auto")


def test_missing_mlx_says_which_extra_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for system, command in (("Linux", r"pip install 'mlx-colbert\[cpu\]'"), ("Darwin", "pip install mlx$")):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        with pytest.raises(BackendError, match=f"mlx is not installed. Install it with: {command}"):
            get_encoder_ops("mlx")


def test_model_loaded_on_one_thread_encodes_on_another(backend, data):
    from concurrent.futures import ThreadPoolExecutor

    from mlx_colbert import ColBERT

    model = ColBERT.load(data / "checkpoints" / "pylate-modernbert", backend=backend)
    with ThreadPoolExecutor(1) as worker:
        elsewhere = worker.submit(model.encode_query, "one question").result()
    np.testing.assert_allclose(elsewhere, model.encode_query("one question"), atol=1e-6)


def test_maxsim_widens_every_finite_float16_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 4)
    wide = widen(finite, np.empty(finite.shape, np.float32))
    assert np.array_equal(wide, finite.astype(np.float32))


def test_maxsim_scores_more_query_rows_than_it_takes_at_once(search_ops, monkeypatch):
    monkeypatch.setattr(search_ops, "_MAXSIM_QUERY_ROWS", 5)
    queries = TokenEmbeddings.pack([normal(n, 8) for n in (3, 9, 1)])
    documents = TokenEmbeddings.pack([normal(n, 8) for n in (4, 25)])
    np.testing.assert_allclose(
        search_ops.maxsim(queries, documents), maxsim_by_hand(queries, documents), rtol=1e-5, atol=1e-5
    )
