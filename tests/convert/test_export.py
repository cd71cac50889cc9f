"""Checkpoints for PyLate and sentence-transformers, written from model folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.convert import convert
from mlx_colbert.convert import export as export_module
from mlx_colbert.convert.export import export
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, InputError, TargetExistsError

DATA = Path(__file__).parents[1] / "data"
TEXTS = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
# Families that transformers computes without code of a repository, in every layout.
BOTH = [
    *("pylate-bert", "pylate-distilbert", "pylate-modernbert", "pylate-modernbert-prompts", "pylate-roberta"),
    *("pylate-xlmr", "stanford-bert", "stanford-xlmr", "stanford-xmod", "native-bert"),
]
NATIVE = [
    "native-distilbert",
    "native-modernbert",
    "native-xlmr",
    "plain-bert",
    "plain-modernbert",
    "plain-roberta",
]
CASES = [
    *((name, "pylate") for name in BOTH),
    *((name, "sentence-transformers") for name in [*BOTH, *NATIVE]),
]


@pytest.fixture
def folder(tmp_path):
    """Converts a checkpoint."""
    return lambda name, **options: convert(DATA / "checkpoints" / name, tmp_path / f"{name}.mlx", **options)


def vectors(model):
    return [model.encode_query(TEXTS["queries"]), model.encode_document(TEXTS["documents"])]


@pytest.mark.parametrize(("name", "to"), CASES)
def test_exported_checkpoint_is_read_as_the_same_model(folder, tmp_path, name, to):
    source = folder(name)
    target = export(source, tmp_path / "out", to=to)

    before, after = (ColBERT.load(path, backend="numpy") for path in (source, target))
    assert (after.config.encoder, after.config.colbert) == (before.config.encoder, before.config.colbert)
    assert after.config.source.layout == to
    for left, right in zip(vectors(before), vectors(after), strict=True):
        assert left.lengths.tolist() == right.lengths.tolist()
        np.testing.assert_array_equal(left.vectors, right.vectors)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "to"), CASES)
def test_sentence_transformers_computes_the_same_vectors(folder, tmp_path, name, to):
    library = pytest.importorskip("sentence_transformers", minversion="6")
    source = folder(name)
    theirs = library.MultiVectorEncoder(str(export(source, tmp_path / "out", to=to)), device="cpu")

    ours = vectors(ColBERT.load(source, backend="numpy"))
    for task, texts, expected in zip(("query", "document"), TEXTS.values(), ours, strict=True):
        found = getattr(theirs, f"encode_{task}")(texts, convert_to_numpy=True)
        assert [len(rows) for rows in found] == expected.lengths.tolist()
        assert 1 - (np.concatenate(found) * expected.vectors).sum(axis=1).min() <= 1e-6


def test_quantised_and_short_weights_are_written_as_their_numbers(folder, tmp_path):
    small = folder("pylate-bert", quantize=True, q_group_size=32, dtype="bfloat16")
    half = folder("stanford-bert", dtype="bfloat16")

    for source in (small, half):
        target = export(source, tmp_path / f"{source.name}.out")
        for left, right in zip(
            *(vectors(ColBERT.load(path, backend="numpy")) for path in (source, target)), strict=True
        ):
            np.testing.assert_array_equal(left.vectors, right.vectors)
    assert json.loads((tmp_path / "pylate-bert.mlx.out" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("stanford-jina-bert", "sentence-transformers", "code beside the weights"),
        ("stanford-xlmr-flash", "pylate", "code beside the weights"),
        ("pylate-bert-hash", "pylate", "code beside the weights"),
        ("native-lfm2", "sentence-transformers", "decoder"),
        ("plain-bert", "pylate", "no projection"),
        ("native-xlmr", "pylate", "prefix"),
        ("native-modernbert", "pylate", "filled up to 12 tokens"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(folder, tmp_path, name, to, reason):
    source = folder(name)

    with pytest.raises(CheckpointError, match=reason):
        export(source, tmp_path / "out", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


def test_nothing_is_written_over(folder, tmp_path):
    source = folder("pylate-bert")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for name in ("out", "link", source.name):
        with pytest.raises(TargetExistsError):
            export(source, tmp_path / name)
    assert list((tmp_path / "out").iterdir()) == []


def test_failure_leaves_nothing(folder, tmp_path, monkeypatch):
    source = folder("pylate-bert")
    # A checkpoint that would be read as another model.
    monkeypatch.setattr(export_module, "_ids", lambda tokenizer: object())

    with pytest.raises(CheckpointError, match="tokens of texts would not be the same"):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_only_a_model_folder_is_exported(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        export(tmp_path / "none", tmp_path / "out")
    with pytest.raises(CheckpointError, match="Convert it first"):
        export(DATA / "checkpoints" / "pylate-bert", tmp_path / "out")
    with pytest.raises(InputError, match="to is 'onnx'"):
        export(tmp_path, tmp_path / "out", to="onnx")


def test_damaged_model_folder_is_an_error(folder, tmp_path):
    source = folder("pylate-bert")
    broken = Path(shutil.copytree(source, tmp_path / "broken"))
    (broken / "tokenizer.json").write_text("{}")

    with pytest.raises(CheckpointError, match="tokenizer"):
        export(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["pylate", "sentence-transformers"])
def test_settings_that_name_a_token_that_is_not_there_are_an_error(folder, tmp_path, to):
    config = folder("pylate-bert") / "config.json"
    config.write_text(config.read_text().replace('"expansion_token_id": 6', '"expansion_token_id": 7777'))

    with pytest.raises(CheckpointError, match="has no token with the id 7777"):
        export(config.parent, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


def test_command_writes_a_checkpoint(folder, tmp_path, capsys):
    source = folder("native-xlmr")

    arguments = ["export", str(source), str(tmp_path / "out"), "--to", "sentence-transformers"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: written for sentence-transformers.\n"
    assert main(arguments) == 1 and "exists already" in capsys.readouterr().err
    assert main(["export", str(source), str(tmp_path / "pylate")]) == 1
    assert "--to sentence-transformers" in capsys.readouterr().err
