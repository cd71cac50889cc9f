"""The number of cores that this process may use, with the CPU limit of a container."""

from __future__ import annotations

import os

import pytest

from mlx_colbert.kernels import threads
from mlx_colbert.kernels.cores import n_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 cores: a function of the lines of /proc/self/cgroup and the files of the cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def cores(lines: str, files: dict[str, str]) -> int:
        (tmp_path / "self").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return n_cores(tmp_path / "self", tmp_path / "cgroup")

    return cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("100000000 100000\n", 64),
        ("max 100000\n", 64),
        ("", 64),
        ("many few\n", 64),
    ],
)
def test_quota_of_a_container_with_cgroups_of_version_2_limits_the_cores(machine, text, cores):
    assert machine("0::/\n", {"cpu.max": text}) == cores


def test_quota_of_a_cgroup_above_counts_too(machine):
    files = {"user.slice/cpu.max": "300000 100000\n", "user.slice/job/cpu.max": "max 100000\n"}
    assert machine("0::/user.slice/job\n", files) == 3


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 64)])
@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/1f", "cpu,cpuacct"])
def test_quota_of_version_1_limits_the_cores_also_if_only_the_own_cgroup_is_shown(
    machine, folder, quota, cores
):
    lines = "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/\n"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert machine(lines, files) == cores


def test_without_cgroups_the_cores_of_the_process_count(machine, tmp_path):
    assert n_cores(tmp_path / "none", tmp_path / "none") == 64


def test_numpy_kernels_use_no_more_threads_than_cores(monkeypatch):
    monkeypatch.delenv("MLX_COLBERT_THREADS", raising=False)
    monkeypatch.setattr(threads, "blas_threads", lambda: 64)
    monkeypatch.setattr(threads, "n_cores", lambda: 2)
    assert threads.n_threads() == 2
