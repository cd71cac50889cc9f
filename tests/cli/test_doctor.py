"""What `mlx-colbert doctor` finds, measures and advises."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from spoiling import CHECKPOINTS

from mlx_colbert import doctor
from mlx_colbert.cli import main
from mlx_colbert.errors import BackendError
from mlx_colbert.kernels.threads import n_threads


@pytest.fixture
def quick(monkeypatch):
    """Measurements of one run each."""
    monkeypatch.setattr(doctor, "_SECONDS", 0.0)


@pytest.mark.slow
def test_backend_device_versions_and_speeds_are_told(quick, backend):
    found = doctor.diagnose(backend=backend)
    assert found.backend == backend and found.device.startswith(("CPU", "GPU"))
    assert found.packages["numpy"] == np.__version__
    assert all(math.isfinite(rate) and rate > 0 for rate in (found.gflops, found.tokens_per_s))
    assert found.model == "random weights, MiniLM's size"
    assert found.gpu != "used" or found.device.startswith("GPU")


@pytest.mark.slow
def test_a_model_is_measured_with_its_own_tokens(quick, capsys):
    assert main(["doctor", "--model", str(CHECKPOINTS / "pylate-bert"), "--backend", "numpy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"].endswith("pylate-bert") and told["tokens_per_s"] > 0
    assert told["gflops"] == told["numpy_gflops"]
    assert told["threads"] == n_threads()


def test_people_get_a_line_per_fact(quick, capsys):
    assert main(["doctor", "--backend", "numpy"]) == 0
    shown = capsys.readouterr().out
    for words in ("mlx-colbert ", "packages ", "backend ", "GPU ", "numpy's BLAS", "GFLOP/s", "tokens/s"):
        assert words in shown


@pytest.mark.slow
def test_it_takes_a_few_seconds():
    started = time.process_time()
    doctor.diagnose(backend="numpy")
    assert time.process_time() - started < 10  # of CPU, on two cores at most


def test_rate_is_the_best_run_and_not_the_warm_up(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: clock.now)

    def run(times: int) -> int:
        clock.now += 0.5 if clock.now == 0.0 else times * 0.001
        return times

    assert doctor._rate(run) == pytest.approx(1000)


def stand_in(name: str, device: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, device=lambda: device)


def test_reference_blas_of_mlx_is_named_with_what_to_install():
    (advice,) = doctor._blas_advice(stand_in("mlx", "CPU (MLX)"), False, "scipy-openblas 0.3", 2.5, 110.0)
    assert "MLX on the CPU runs at 2 GFLOP/s, numpy at 110" in advice
    assert "libopenblas0-pthread" in advice and "LD_PRELOAD=" in advice


@pytest.mark.parametrize("gflops", [60.0, 110.0, 200.0])
def test_mlx_with_a_fast_blas_needs_no_advice(gflops):
    ops = stand_in("mlx", "CPU (MLX)")
    assert doctor._blas_advice(ops, False, "scipy-openblas 0.3", gflops, 110.0) == []


@pytest.mark.parametrize(("blas", "fine"), [("blas 3.9", False), ("accelerate", True), ("mkl 2024", True)])
def test_numpy_without_a_fast_blas_is_named(blas, fine, monkeypatch):
    nothing = SimpleNamespace(select=lambda **_: SimpleNamespace(lib_controllers=[]))
    monkeypatch.setattr(doctor, "ThreadpoolController", lambda: nothing)
    advice = doctor._blas_advice(stand_in("numpy", "CPU (numpy)"), False, blas, 3.0, 3.0)
    assert (advice == []) is fine
    assert fine or "pip install --force-reinstall numpy" in advice[0]


def test_gpu_that_is_slower_than_the_processor_is_suspicious():
    (advice,) = doctor._blas_advice(stand_in("mlx", "GPU (MLX Metal)"), True, "accelerate", 50.0, 400.0)
    assert "The GPU runs at 50 GFLOP/s, numpy at 400" in advice


def test_unused_gpu_is_named_with_the_way_to_use_it(monkeypatch):
    def without_mlx(backend):
        raise BackendError("backend mlx: mlx is not installed. Install it with: pip install mlx")

    ops = stand_in("numpy", "CPU (numpy)")
    monkeypatch.setattr(doctor, "_finds_gpu", lambda: True)
    monkeypatch.setattr(doctor, "get_encoder_ops", without_mlx)
    assert "Install it with: pip install mlx" in doctor._gpu_advice(ops, False)[0]
    monkeypatch.setattr(doctor, "get_encoder_ops", lambda backend: stand_in("mlx", "GPU (MLX CUDA)"))
    assert "--backend mlx uses the GPU" in doctor._gpu_advice(ops, False)[0]
    monkeypatch.setattr(doctor, "get_encoder_ops", lambda backend: stand_in("mlx", "CPU (MLX)"))
    assert "mlx-colbert[cuda]" in doctor._gpu_advice(ops, False)[0]
    assert doctor._gpu_advice(stand_in("mlx", "GPU (MLX CUDA)"), True) == []
    monkeypatch.setattr(doctor, "_finds_gpu", lambda: False)
    assert doctor._gpu_advice(ops, False) == []
