"""The families whose code is published beside a checkpoint, X-MOD's languages, and shortened vectors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from spoiling import CHECKPOINTS, edit, edit_tensors, refusal

from mlx_colbert import ColBERT
from mlx_colbert.cli import main
from mlx_colbert.convert import convert, verify
from mlx_colbert.errors import CheckpointError, ConfigError
from mlx_colbert.model import folder as checkpoint
from mlx_colbert.model.backbones.encoder import _alibi_slopes
from mlx_colbert.model.config import ColBERTConfig, _chosen
from mlx_colbert.model.safetensors_file import read_safetensors

TEXTS = ["Who wrote it?", "Harper Lee wrote the novel in 1960."]


@pytest.mark.parametrize(
    ("n_heads", "slopes"),
    [
        (1, [2**-8]),
        (8, [2.0**-i for i in range(1, 9)]),
        # The authors' list for 12 heads: those of 8, then every other one of 16.
        (12, [2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_slopes_of_alibi_are_the_authors(n_heads, slopes):
    np.testing.assert_allclose(_alibi_slopes(n_heads), slopes, rtol=1e-6)


def test_alibi_has_no_table_that_would_limit_the_length(copy, backend):
    source = copy("stanford-jina-bert")
    edit(source / "artifact.metadata", doc_maxlen=9000)
    model = ColBERT.load(source, backend=backend)
    assert model.config.colbert.document_length == 9000
    assert len(model.encode_document("the cat " * 300)) == 903


def test_gate_of_jina_bert_is_the_feed_forward_types(copy):
    source = copy("stanford-jina-bert")
    edit(source / "config.json", feed_forward_type="reglu", hidden_act="silu")
    assert checkpoint.read_config(convert(source, source.parent / "m")).encoder.activation == "relu"


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("stanford-jina-bert", {"feed_forward_type": "original"}, "'feed_forward_type' = 'original'"),
        ("stanford-jina-bert", {"feed_forward_type": None}, "'feed_forward_type' = None"),
        (
            "stanford-jina-bert",
            {"auto_map": {"AutoConfig": "x.OtherConfig"}},
            "not the code of JinaBertConfig",
        ),
        ("stanford-jina-bert", {"auto_map": "x"}, "not the code of JinaBertConfig"),
        ("stanford-jina-bert", {"position_embedding_type": "absolute"}, "'auto_map' ="),
        ("stanford-xlmr-flash", {"load_trained_adapters": True}, "LoRA adapters are not merged here"),
        ("stanford-xlmr-flash", {"rotary_emb_interleaved": True}, "'rotary_emb_interleaved' = True"),
        ("stanford-xlmr-flash", {"rotary_emb_dim": 4}, "'rotary_emb_dim' = 4 is not implemented"),
        ("stanford-xlmr-flash", {"last_layer_subset": True}, "'last_layer_subset' = True"),
        ("stanford-xlmr-flash", {"rotary_emb_base": 0}, "'rotary_emb_base' must be a number > 0"),
        ("stanford-xlmr-flash", {"task_instructions": {"a": "b: "}}, "'task_instructions' ="),
        ("stanford-xmod", {"pre_norm": True}, "'pre_norm' = True is not implemented"),
        ("stanford-xmod", {"adapter_layer_norm": True}, "'adapter_layer_norm' = True"),
        ("stanford-xmod", {"adapter_reuse_layer_norm": False}, "'adapter_reuse_layer_norm' = False"),
        ("stanford-xmod", {"ln_before_adapter": False}, "'ln_before_adapter' = False"),
        ("stanford-xmod", {"adapter_reduction_factor": 4}, "has shape (16, 32), expected (8, 32)"),
        (
            "stanford-xmod",
            {"default_language": None},
            "names no default_language. Choose one with --language",
        ),
        ("stanford-xmod", {"default_language": "fr_XX"}, "has no adapters for 'fr_XX'"),
        ("stanford-xmod", {"languages": "de_DE"}, "has no adapters for 'de_DE'"),
        ("pylate-bert-hash", {"projections": 8}, "has shape (522, 4), expected (522, 8)"),
        ("pylate-bert-hash", {"auto_map": {}, "hash_seed": 7}, "'hash_seed' = 7 is not understood"),
    ],
)
def test_setting_of_published_code_that_is_not_implemented_is_refused(copy, name, change, complaint):
    source = copy(name)
    edit(source / "config.json", **change)
    assert complaint in refusal(source)


def test_lora_tensors_are_refused_whatever_the_settings_say(copy):
    source = copy("stanford-xlmr-flash")
    name = "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_A"
    # numpy has no bfloat16: the spoiled copy is float32.
    stored = read_safetensors(source / "model.safetensors")
    tensors = {key: np.array(value) for key, value in stored.items()}
    save_file({**tensors, name: np.zeros((5, 4, 32), np.float32)}, source / "model.safetensors")
    assert f"tensor {name} is not expected" in refusal(source)


def test_only_the_chosen_languages_adapters_are_kept(tmp_path):
    source = load_file(CHECKPOINTS / "stanford-xmod" / "model.safetensors")
    for language in ("en_XX", "de_DE", "zh_CN"):
        folder = convert(CHECKPOINTS / "stanford-xmod", tmp_path / language, language=language)
        kept = load_file(folder / "model.safetensors")
        place = f"roberta.encoder.layer.1.output.adapter_modules.{language}.dense1.weight"
        assert np.array_equal(kept["layers.1.adapter.down.weight"], source[place])
        assert checkpoint.read_config(folder).source.language == language


def test_default_language_is_the_checkpoints(tmp_path):
    chosen, default = (
        convert(CHECKPOINTS / "stanford-xmod", tmp_path / str(language), language=language)
        for language in ("de_DE", None)
    )
    assert (chosen / "model.safetensors").read_bytes() == (default / "model.safetensors").read_bytes()


def test_languages_give_other_vectors(tmp_path, backend):
    models = [
        ColBERT.load(convert(CHECKPOINTS / "stanford-xmod", tmp_path / name, language=name), backend=backend)
        for name in ("en_XX", "zh_CN")
    ]
    vectors = [model.encode_document(TEXTS).vectors for model in models]
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("stanford-xmod", r"has no adapters for 'fr_XX'\. Choose one with --language: en_XX, de_DE, zh_CN"),
        ("pylate-bert", "has no adapters for languages. Remove --language"),
    ],
)
def test_language_without_adapters_is_refused(tmp_path, name, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        convert(CHECKPOINTS / name, tmp_path / "model", language="fr_XX")


@pytest.mark.parametrize("name", ["stanford-xlmr-flash", "pylate-distilbert"])
def test_shortened_vectors_are_the_first_components_at_unit_length(tmp_path, backend, name):
    whole = ColBERT.load(CHECKPOINTS / name, backend=backend, dtype="float32").encode_query(TEXTS).vectors
    model = ColBERT.load(
        convert(CHECKPOINTS / name, tmp_path / "model", dim=8), backend=backend, dtype="float32"
    )
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert model.dim == 8
    np.testing.assert_allclose(model.encode_query(TEXTS).vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "tensors"),
    [
        ({"out_features": 32, "use_residual": True}, {}),
        (
            {"out_features": 24, "use_residual": True, "bias": True},
            {"linear.bias": 24, "residual.weight": 24},
        ),
    ],
)
def test_residual_layer_is_shortened_with_what_it_adds(copy, head, tensors):
    source, random = copy("pylate-bert"), np.random.default_rng(0)
    edit(source / "1_Dense" / "config.json", **head)
    width = head["out_features"]

    def widen(values):
        values["linear.weight"] = random.standard_normal((width, 32)).astype(np.float32)
        for name, rows in tensors.items():
            shape = (rows,) if name.endswith("bias") else (rows, 32)
            values[name] = random.standard_normal(shape).astype(np.float32)

    edit_tensors(source / "1_Dense" / "model.safetensors", widen)
    whole = ColBERT.load(source, backend="numpy").encode_query(TEXTS).vectors[:, :10]
    short = ColBERT.load(convert(source, source.parent / "short", dim=10), backend="numpy")
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode_query(TEXTS).vectors, expected, atol=1e-5)


def test_all_components_are_the_model_itself(tmp_path):
    all_of_them, default = (
        convert(CHECKPOINTS / "pylate-modernbert", tmp_path / str(dim), dim=dim) for dim in (16, None)
    )
    assert (all_of_them / "config.json").read_bytes() == (default / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "dim", "complaint"),
    [
        ("stanford-bert", 17, r"must be in 1\.\.16, got 17"),
        ("stanford-bert", 0, r"must be in 1\.\.16, got 0"),
        ("plain-bert", 8, "plain-bert has no projection to shorten. projection_dim makes one"),
    ],
)
def test_shortening_to_what_the_head_does_not_have_is_refused(tmp_path, name, dim, complaint):
    with pytest.raises(ConfigError, match=complaint):
        convert(CHECKPOINTS / name, tmp_path / "model", dim=dim)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("announced", "note"),
    [
        ([16, 12, 8], "trained for vectors of [16, 12, 8] components"),
        (None, "does not say that its vectors may be shortened"),
    ],
)
def test_command_says_whether_shorter_vectors_are_announced(copy, tmp_path, capsys, announced, note):
    source = copy("stanford-xlmr-flash")
    edit(source / "config.json", matryoshka_dimensions=announced)
    arguments = ["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "m")]
    assert main([*arguments, "--dim", "8"]) == 0
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("flag", [["--dim", "8"], ["--language", "de_DE"]])
def test_command_does_not_compare_a_part_with_the_whole(tmp_path, capsys, flag):
    arguments = [
        "convert",
        "--hf-path",
        str(CHECKPOINTS / "stanford-xmod"),
        "--mlx-path",
        str(tmp_path / "m"),
    ]
    assert main([*arguments, "--verify", *flag]) != 0
    assert "remove --dim and --language" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_comparison_runs_no_code_of_the_checkpoint(tmp_path, monkeypatch):
    source = CHECKPOINTS / "stanford-jina-bert"
    folder = convert(source, tmp_path / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    report = verify.verify(folder, source, backend="numpy")
    assert not report.passed
    assert any("the original needs its own code, which is never run here" in note for note in report.notes)


def test_narrow_token_table_may_be_quantised_where_its_width_allows(tmp_path, backend):
    folder = convert(CHECKPOINTS / "pylate-bert-hash", tmp_path / "model", quantize=True, q_group_size=32)
    stored = load_file(folder / "model.safetensors")
    assert stored["embeddings.token.weight"].dtype == np.float32
    assert len(ColBERT.load(folder, backend=backend).encode_query("a")) == 16


def test_settings_added_later_leave_a_folder_readable_and_its_fingerprint(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    before = ColBERT.load(folder, backend="numpy").fingerprint
    for key in ("token_width", "adapter_size", "mlp_up_bias"):
        del values["encoder"][key]
    del values["source"]["language"]
    path.write_text(json.dumps(values))
    assert ColBERT.load(folder, backend="numpy").fingerprint == before
    assert _chosen(ColBERTConfig()) == {}


def test_shortening_a_residual_layer_to_its_own_width_is_refused(tmp_path):
    # Twice as wide as what it reads: 16 components cannot be told from an input that is added as it is.
    source = shutil.copytree(CHECKPOINTS / "native-bert", tmp_path / "source")
    (dense,) = source.glob("*Dense")
    config = json.loads((dense / "config.json").read_text())
    width = config["in_features"]
    config |= {"out_features": 2 * width, "use_residual": True}
    (dense / "config.json").write_text(json.dumps(config))
    rows = np.random.default_rng(0).standard_normal((2 * width, width), np.float32)
    save_file({"linear.weight": rows, "residual.weight": rows}, dense / "model.safetensors")
    with pytest.raises(ConfigError, match=f"{width} components too"):
        convert(source, tmp_path / "model", dim=width)
    folder = convert(source, tmp_path / "model", dim=width + 1)
    assert ColBERT.load(folder, backend="numpy").encode_query("a").shape[1] == width + 1
