"""Models that stay loaded."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_colbert.model.colbert import ColBERT
from mlx_colbert.model.kept import KeptModels, keeping

CHECKPOINT = Path(__file__).parents[1] / "data/checkpoints/pylate-bert"


def loaded(**settings):
    return ColBERT.load(CHECKPOINT, backend="numpy", **settings)


def test_model_is_loaded_once_within_the_block_and_each_time_outside():
    with keeping(KeptModels()):
        first, again, other = loaded(), loaded(), loaded(query_length=5)
    assert first._params is again._params and first._params is not other._params
    assert loaded()._params is not first._params
    assert first.lengths == {} and other.lengths == {"query_length": 5}


def test_backend_of_the_environment_is_that_of_the_call(monkeypatch):
    pytest.importorskip("mlx.core")
    with keeping(KeptModels()):
        for name in ("numpy", "mlx", "numpy"):
            monkeypatch.setenv("MLX_COLBERT_BACKEND", name)
            assert ColBERT.load(CHECKPOINT).backend == name


def test_block_without_keeper_uses_that_of_the_block_around_it():
    with keeping():
        first = loaded()
        with keeping():
            assert loaded()._params is first._params
        assert loaded()._params is first._params
    assert loaded()._params is not first._params


def test_idle_model_is_let_go():
    models = KeptModels()
    with keeping(models):
        first = loaded()
        assert models.drop_idle(3600) == 0 and models.names() == [str(CHECKPOINT)]
        assert models.drop_idle(0) == 1 and models.names() == []
        assert loaded()._params is not first._params


def test_idle_model_gives_the_memory_of_mlx_back():
    mx = pytest.importorskip("mlx.core")
    models = KeptModels()
    with keeping(models):
        ColBERT.load(CHECKPOINT, backend="mlx").encode_document(["tea", "coffee"])
        assert mx.get_cache_memory() > 0
        models.drop_idle(0)
    assert mx.get_cache_memory() == 0


def test_changed_files_are_loaded_again(tmp_path):
    folder = tmp_path / "model"
    ColBERT.load(CHECKPOINT, backend="numpy")
    from mlx_colbert.convert import convert

    convert(CHECKPOINT, folder)
    with keeping(KeptModels()):
        first = ColBERT.load(folder, backend="numpy")
        same = ColBERT.load(folder, backend="numpy")
        config = folder / "config.json"
        config.write_text(config.read_text() + "\n")
        changed = ColBERT.load(folder, backend="numpy")
    assert first._params is same._params and first._params is not changed._params


def test_model_that_is_loading_holds_up_nobody_who_wants_another():
    models, may_go_on, begun = KeptModels(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert may_go_on.wait(60)
        return "slow"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(models.get, "slow", "slow", slow)
        assert begun.wait(60)
        second = pool.submit(models.get, "slow", "slow", lambda: "loaded twice")
        assert models.get("fast", "fast", lambda: "fast") == "fast"
        may_go_on.set()
        assert (first.result(), second.result()) == ("slow", "slow")
    assert sorted(models.names()) == ["fast", "slow"]


def test_model_that_could_not_be_loaded_is_tried_again():
    models = KeptModels()
    with pytest.raises(ZeroDivisionError):
        models.get("a", "a", lambda: 1 / 0)
    assert models.get("a", "a", lambda: 1) == 1


def test_nothing_is_kept_of_models_that_cannot_be_loaded_or_were_loaded():
    models = KeptModels()
    for name in range(3):
        with pytest.raises(ZeroDivisionError):
            models.get("a", name, lambda: 1 / 0)
    models.get("b", "b", lambda: 1)
    assert models._turns == {} and models.names() == ["b"]


def test_model_that_is_let_go_while_another_thread_takes_it_can_be_let_go_again():
    models = KeptModels()
    models.get("m", "key", lambda: 1)

    class Interrupting:
        """The lock. Another thread lets go of all models between two uses of it."""

        n_left = 3

        def __enter__(self):
            self.n_left -= 1
            if not self.n_left:
                models._lock = threading.Lock()
                models.drop_idle(0)
                models._lock = self

        def __exit__(self, *error):
            pass

    models._lock = Interrupting()
    assert models.get("m", "key", lambda: 2) == 1
    models._lock = threading.Lock()
    assert models.drop_idle(0) == 1 and models.names() == []
