"""`convert --upload-repo`, to a hub on the loopback."""

from __future__ import annotations

import pytest
from hub import TOKEN
from spoiling import CHECKPOINTS

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.convert import convert
from mlx_colbert.convert.upload import model_card
from mlx_colbert.convert.verify import Check
from mlx_colbert.errors import CheckpointError

# huggingface_hub's own, of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def logged_in(monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def files_of(hub, repo: str) -> dict[str, bytes]:
    repository = hub.repositories[repo]
    return repository.commits[repository.refs["main"]]


def test_uploaded_folder_loads_from_its_repository(hub, logged_in, tmp_path):
    convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", upload_repo="owner/converted")
    assert {name: content for name, content in files_of(hub, "owner/converted").items()} == {
        path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()
    }
    assert "PUT /lfs" in hub.log
    model = ColBERT.load("owner/converted", backend="numpy")
    assert model.fingerprint == ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy").fingerprint
    assert [name for name in hub.fetched() if name != "README.md"] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_card_names_the_original_on_the_hub_and_its_licence(hub, logged_in, tmp_path):
    repository = hub.add(
        "owner/original", CHECKPOINTS / "pylate-bert", **{"README.md": b"---\nlicense: apache-2.0\n---\n"}
    )
    convert("owner/original", tmp_path / "model", quantize=True, q_group_size=32, upload_repo="owner/mlx")
    card = files_of(hub, "owner/mlx")["README.md"].decode()
    head, body = card.split("---\n")[1:3]
    assert "license: apache-2.0\nbase_model: owner/original\nbase_model_relation: quantized\n" in head
    assert (
        f"owner/original](https://huggingface.co/owner/original) at revision {repository.refs['main']}"
        in body
    )
    assert "16 components, weights in float32, the large matrices in 4 bits" in body
    assert 'ColBERT.load("owner/mlx")' in body
    assert "mlx-colbert verify-model owner/mlx" in body


def test_original_without_a_card_has_no_licence(hub, logged_in, tmp_path):
    hub.add("owner/original", CHECKPOINTS / "pylate-bert")
    convert("owner/original", tmp_path / "model", upload_repo="owner/mlx")
    assert b"license" not in files_of(hub, "owner/mlx")["README.md"]


def test_local_folder_is_no_base_model_of_the_hub(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    card = model_card(folder, "me/model")
    assert "base_model" not in card and "huggingface.co" not in card


def test_card_lists_what_was_compared(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    card = model_card(folder, "me/model", checks=[Check("MaxSim of 'a|b'", "1.0", "1.0\n", True)])
    assert "| MaxSim of 'a\\|b' | 1.0 | 1.0 |" in card


def test_licence_line_that_is_more_than_a_word_is_not_taken_over(hub, logged_in, tmp_path, copy):
    source = copy("pylate-bert")
    (source / "README.md").write_text("license: x\\n[click](http://bad) here\nlicense: <script>\n")
    convert(source, tmp_path / "model", upload_repo="owner/mlx")
    assert b"license" not in files_of(hub, "owner/mlx")["README.md"]


@pytest.mark.parametrize(
    ("token", "repo", "reason"),
    [
        (None, "owner/model", "it needs a valid token: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_expired", "owner/model", "it needs a valid token"),
        (TOKEN, "stranger/model", "403 Forbidden: You don't have the rights to create stranger/model"),
        (TOKEN, "not/a/name", "Repo id must be in the form"),
    ],
)
def test_refused_upload_says_that_the_folder_is_complete(hub, tmp_path, monkeypatch, token, repo, reason):
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=r"not uploaded \(the folder .*model is complete\): ") as caught:
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", upload_repo=repo)
    assert reason in str(caught.value)
    assert ColBERT.load(tmp_path / "model", backend="numpy").dim == 16


def test_full_hub_is_named_as_the_reason(hub, logged_in, tmp_path):
    hub.is_full = True
    with pytest.raises(CheckpointError, match="403 Forbidden: Storage limit reached"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", upload_repo="owner/mlx")
    assert files_of(hub, "owner/mlx") == {}


def test_what_does_not_pass_verification_is_not_uploaded(hub, logged_in, tmp_path, capsys, monkeypatch):
    # As where sentence-transformers is not installed.
    monkeypatch.setattr("mlx_colbert.convert.verify.importlib.util.find_spec", lambda name: None)
    source, target = str(CHECKPOINTS / "pylate-bert"), str(tmp_path / "model")
    arguments = ["--hf-path", source, "--mlx-path", target, "--verify", "--upload-repo", "owner/model"]
    assert main(["convert", *arguments]) == 1
    assert "Not verified" in capsys.readouterr().out
    assert hub.log == []
