"""What the converter writes."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from spoiling import CHECKPOINTS, edit, modules

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert, converted
from mlx_colbert.errors import (
    ConfigError,
)
from mlx_colbert.model import folder as checkpoint
from mlx_colbert.model.parameters import expected_shapes

TEXTS = ["Who wrote it?", "Harper Lee wrote the novel in 1960."]


def test_folder_holds_three_files_that_describe_themselves(tmp_path):
    folder = convert(CHECKPOINTS / "stanford-bert", tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    original = (CHECKPOINTS / "stanford-bert" / "model.safetensors").read_bytes()
    assert config["source"]["id"] == "stanford-bert"
    assert config["source"]["layout"] == "stanford"
    assert config["source"]["weights"] == {"model.safetensors": hashlib.sha256(original).hexdigest()}
    written = (folder / "model.safetensors").read_bytes()
    assert config["weights_sha256"] == hashlib.sha256(written).hexdigest()
    assert config["colbert"]["query_length"] == 16
    assert config["dtype"] == "float32"


def test_weights_load_with_mlx_and_with_safetensors_alike(tmp_path):
    mx = pytest.importorskip("mlx.core")
    folder = convert(CHECKPOINTS / "pylate-modernbert", tmp_path / "model", dtype="float16")
    by_mlx, by_safetensors = (
        mx.load(str(folder / "model.safetensors")),
        load_file(folder / "model.safetensors"),
    )
    config = checkpoint.read_config(folder)
    assert set(by_mlx) == set(by_safetensors) == set(expected_shapes(config.encoder, config.projection))
    assert all(np.array_equal(np.array(by_mlx[name]), by_safetensors[name]) for name in by_mlx)


def test_checkpoint_keeps_its_type_unless_another_is_asked_for(tmp_path):
    kept = convert(CHECKPOINTS / "stanford-bert-bin", tmp_path / "kept")
    assert checkpoint.read_config(kept).dtype == "float16"
    changed = convert(CHECKPOINTS / "stanford-bert-bin", tmp_path / "changed", dtype="float32")
    assert load_file(changed / "model.safetensors")["projection.0.weight"].dtype == np.float32


def test_converting_twice_gives_the_same_bytes(tmp_path):
    files = [convert(CHECKPOINTS / "native-xlmr", tmp_path / str(i)) / "model.safetensors" for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_source_is_not_touched(copy):
    source = copy("pylate-distilbert")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    convert(source, source.parent / "target")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_harmless_and_empty_settings_are_ignored(copy):
    source = copy("pylate-bert")
    edit(
        source / "config.json", _name_or_path="x", id2label={"0": "a"}, hidden_dropout_prob=0.3, unknown=None
    )
    convert(source, source.parent / "target")


@pytest.mark.parametrize(("name", "dtype"), [("stanford-bert", "float32"), ("stanford-bert-bin", "float16")])
def test_stale_module_list_beside_a_stanford_checkpoint_is_passed_over(copy, name, dtype):
    source = copy(name)
    entry = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (source / "modules.json").write_text(json.dumps([entry]))
    folder = convert(source, source.parent / "target")
    config = checkpoint.read_config(folder)
    assert (config.source.layout, config.dtype) == ("stanford", dtype)


def test_pylates_layout_wins_where_a_repository_has_stanfords_too(copy):
    source = copy("pylate-bert")
    backbone = source / "0_Transformer"
    backbone.mkdir()
    for file in [path for path in source.iterdir() if path.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(backbone / file.name)
    shutil.copytree(CHECKPOINTS / "stanford-bert", source, dirs_exist_ok=True)
    modules(source, lambda entries: entries[0].update(path="0_Transformer"))
    both = convert(source, source.parent / "both")
    alone = convert(CHECKPOINTS / "pylate-bert", source.parent / "alone")
    assert checkpoint.read_config(both).source.layout == "pylate"
    for file in ("model.safetensors", "tokenizer.json"):
        assert (both / file).read_bytes() == (alone / file).read_bytes()


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_model_keeps_most_of_each_direction_on_both_backends(tmp_path, backend, bits):
    folder = convert(
        CHECKPOINTS / "pylate-bert", tmp_path / "model", quantize=True, q_bits=bits, q_group_size=32
    )
    exact = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy").encode_document(TEXTS)
    rough = ColBERT.load(folder, backend=backend).encode_document(TEXTS)
    # A random-weight model of width 32 is far more sensitive than a trained one.
    assert (exact.vectors * rough.vectors).sum(axis=1).mean() > {4: 0.9, 8: 0.999}[bits]


def test_quantised_backends_agree(tmp_path):
    pytest.importorskip("mlx.core")
    folder = convert(CHECKPOINTS / "plain-bert", tmp_path / "model", quantize=True, q_group_size=32)
    vectors = [ColBERT.load(folder, backend=name).encode_document(TEXTS).vectors for name in ("numpy", "mlx")]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))
    return path


def test_fitted_projection_keeps_the_dot_products_best(tmp_path, texts):
    folder = convert(CHECKPOINTS / "plain-roberta", tmp_path / "model", projection_dim=16, fit_on=texts)
    model, encoder = (
        ColBERT.load(folder, backend="numpy"),
        ColBERT.load(CHECKPOINTS / "plain-roberta", backend="numpy"),
    )
    weight = load_file(folder / "model.safetensors")["projection.0.weight"]
    assert model.dim == 16
    np.testing.assert_allclose(weight @ weight.T, np.eye(16), atol=1e-5)
    vectors = encoder.encode_document(TEXTS).vectors
    kept = ((vectors @ weight.T) ** 2).sum() / (vectors**2).sum()
    best = np.linalg.svd(vectors, compute_uv=False)[:16] ** 2
    assert kept == pytest.approx(best.sum() / (vectors**2).sum(), abs=1e-4)


def test_checkpoint_with_a_head_takes_no_other(tmp_path, texts):
    with pytest.raises(ConfigError, match="pylate-bert has a projection already"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", projection_dim=8, fit_on=texts)


def test_architectures_of_another_type_do_not_matter(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", architectures=5)
    assert convert(source, source.parent / "target").is_dir()


def test_widest_type_of_backbone_and_projection_is_kept(copy):
    source = copy("pylate-bert")
    half = {name: value.astype(np.float16) for name, value in load_file(source / "model.safetensors").items()}
    save_file(half, source / "model.safetensors")
    assert checkpoint.read_config(convert(source, source.parent / "target")).dtype == "float32"


def test_skiplist_task_may_be_one_string(copy):
    source = copy("native-bert")
    edit(source / "2_MultiVectorMask" / "config.json", skiplist_tasks="query")
    assert checkpoint.read_config(convert(source, source.parent / "t")).colbert.skiplist_tasks == ("query",)


def test_null_turns_the_punctuation_skiplist_off(copy):
    source = copy("stanford-bert")
    edit(source / "artifact.metadata", mask_punctuation=None)
    assert checkpoint.read_config(convert(source, source.parent / "t")).colbert.skiplist_words == ()


def test_rotary_positions_do_not_end_at_the_trained_ones(copy):
    source = copy("pylate-modernbert")
    edit(source / "config_sentence_transformers.json", document_length=300)
    config = checkpoint.read_config(convert(source, source.parent / "target"))
    assert (config.colbert.document_length, config.encoder.max_length) == (300, 300)


def test_absolute_positions_limit_the_length(copy):
    source = copy("pylate-bert")
    edit(source / "config_sentence_transformers.json", document_length=300)
    assert checkpoint.read_config(convert(source, source.parent / "target")).colbert.document_length == 128


@pytest.mark.parametrize(
    ("dim", "complaint"), [(0, "must be in 1..31, got 0"), (32, "must be in 1..31, got 32")]
)
def test_fitted_projection_of_an_impossible_size_is_refused(tmp_path, texts, dim, complaint):
    with pytest.raises(ConfigError, match=complaint):
        convert(CHECKPOINTS / "plain-bert", tmp_path / "model", projection_dim=dim, fit_on=texts)


def test_threads_that_load_one_checkpoint_at_once_convert_it_once(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    source, count = copy("pylate-bert"), []
    read = converted.read_checkpoint

    def counted(location):
        count.append(location)
        return read(location)

    monkeypatch.setattr(converted, "read_checkpoint", counted)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: ColBERT.load(source, backend="numpy"), range(4)))
    assert len({model.fingerprint for model in models}) == 1 and len(count) == 1
