from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mlx_colbert.cli import main
from mlx_colbert.convert import convert
from mlx_colbert.convert.upload import model_card
from mlx_colbert.errors import CheckpointError

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"


class Hub:
    """Stands in for HfApi: remembers what it was asked to do."""

    calls: ClassVar[list[tuple[str, str]]] = []
    refuse = False

    def create_repo(self, repo, *, exist_ok):
        if Hub.refuse:
            raise ValueError("401 Client Error: log in first\nRequest ID: 1")
        Hub.calls.append(("create", repo))

    def upload_folder(self, *, folder_path, repo_id, repo_type):
        names = sorted(path.name for path in Path(folder_path).iterdir())
        Hub.calls.append(("upload", f"{repo_id} {repo_type} {' '.join(names)}"))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(Hub, "refuse", False)
    return Hub


def test_folder_is_uploaded_with_a_model_card(hub, tmp_path):
    convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", upload_repo="me/model")
    files = "README.md config.json model.safetensors tokenizer.json"
    assert hub.calls == [("create", "me/model"), ("upload", f"me/model model {files}")]


def test_card_names_source_licence_and_how_to_load(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", quantize=True, q_group_size=32)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    card = model_card(folder, "me/model", card_of=tmp_path)
    assert "license: apache-2.0\n" in card
    assert 'ColBERT.load("me/model")' in card
    assert "16 components, weights in float32, the large matrices in 4 bits" in card
    # A local folder is no base model of the hub's.
    assert "base_model" not in card
    assert "huggingface.co" not in card


def test_licence_line_that_is_more_than_a_word_is_not_taken_over(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    (tmp_path / "README.md").write_text("license: x\\n[click](http://bad) here\nlicense: <script>\n")
    assert "license" not in model_card(folder, "me/model", card_of=tmp_path)


def test_refused_upload_says_that_the_folder_is_complete(hub, tmp_path):
    hub.refuse = True
    with pytest.raises(
        CheckpointError, match=r"not uploaded \(the folder .*model is complete\): 401 Client Error"
    ):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", upload_repo="me/model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_what_does_not_pass_verification_is_not_uploaded(hub, tmp_path, capsys, monkeypatch):
    # As where sentence-transformers is not installed.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source, target = str(CHECKPOINTS / "pylate-bert"), str(tmp_path / "model")
    arguments = [
        "convert",
        "--hf-path",
        source,
        "--mlx-path",
        target,
        "--verify",
        "--upload-repo",
        "me/model",
    ]
    assert main(arguments) == 1
    assert "Not verified" in capsys.readouterr().out
    assert hub.calls == []
