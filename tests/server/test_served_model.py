"""The model of the server: loaded once, let go when it is idle, and no other one."""

import shutil

import pytest

from mlx_colbert.engine.engine import Engine
from mlx_colbert.errors import CheckpointError
from mlx_colbert.server import served_model
from mlx_colbert.server.problems import Problem
from mlx_colbert.server.served_model import ServedModel


@pytest.fixture
def folder(tmp_path, model):
    shutil.copytree(model.source, tmp_path / "tiny")
    return tmp_path / "tiny"


def test_model_is_loaded_once_and_again_after_it_was_let_go(folder):
    engine, served = Engine(), ServedModel(str(folder))
    with engine.running():
        first, again = served.load(), served.load()
        assert first._params is again._params and engine.models.names() == [str(folder)]
        del first, again
        assert engine.models.drop_idle(0) == 1
        assert served.load() and engine.models.names() == [str(folder)]


def test_look_at_the_files_tells_the_engine_that_the_model_is_in_use(folder, monkeypatch):
    monkeypatch.setattr(served_model, "_LOOK_S", -1.0)
    engine, served = Engine(), ServedModel(str(folder))
    with engine.running():
        served.load()
        (kept,) = engine.models._kept.values()
        kept.used = 0.0
        served.load()
        assert kept.used > 0


def test_model_that_cannot_be_loaded_is_not_loaded(tmp_path):
    served = ServedModel(str(tmp_path / "none"))
    with pytest.raises(CheckpointError):
        served.load()
    assert not served.is_loaded


def test_request_names_this_model_or_none(folder):
    served = ServedModel(str(folder))
    for name in (None, "tiny", str(folder)):
        served.check(name)
    for name in ("other", "", "../tiny", "colbert-ir/colbertv2.0"):
        with pytest.raises(Problem, match="is not served here"):
            served.check(name)
    assert ServedModel("owner/name").name == "owner/name"
