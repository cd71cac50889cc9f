"""The converter as a whole: what it writes, and what it refuses without leaving anything behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_colbert import ColBERT, checkpoint
from mlx_colbert.convert import convert
from mlx_colbert.encoder import expected_shapes
from mlx_colbert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    InputError,
    TargetExistsError,
    UnsafeCheckpointError,
)
from mlx_colbert.tensors import read_safetensors

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"
TEXTS = ["Who wrote it?", "Harper Lee wrote the novel in 1960."]


@pytest.fixture
def copy(tmp_path):
    """A checkpoint that a test may spoil."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(CHECKPOINTS / name, tmp_path / "source"))

    return copied


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(source: Path, error: type[Exception] = CheckpointError) -> str:
    """The message with which `source` is refused, nothing written."""
    target = source.parent / "target"
    with pytest.raises(error) as caught:
        convert(source, target)
    assert sorted(path.name for path in source.parent.iterdir()) == [source.name]
    return str(caught.value)


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


def test_existing_target_is_refused_and_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(TargetExistsError, match=r"exists already\. Remove it, or choose another --mlx-path"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def test_source_is_not_touched(copy):
    source = copy("pylate-distilbert")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    convert(source, source.parent / "target")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_missing_extra_and_wrong_tensors_are_all_listed(copy):
    source = copy("plain-modernbert")

    def spoil(tensors):
        del tensors["layers.1.attn.Wo.weight"]
        tensors["layers.9.attn.Wo.weight"] = np.zeros(2, np.float32)
        tensors["final_norm.weight"] = np.ones(5, np.float32)

    # numpy has no bfloat16: the spoiled copy is float32.
    original = {k: np.array(v) for k, v in read_safetensors(source / "model.safetensors").items()}
    spoil(original)
    save_file(original, source / "model.safetensors")
    message = refusal(source)
    assert "tensor layers.1.attn.Wo.weight is missing" in message
    assert "tensor layers.9.attn.Wo.weight is not expected" in message
    assert "tensor final_norm.weight has shape (5,), expected (32,)" in message


def test_wrong_and_missing_projection_tensors_are_listed(copy):
    source = copy("pylate-modernbert")
    edit_tensors(source / "1_Dense" / "model.safetensors", lambda tensors: tensors.pop("residual.weight"))
    edit_tensors(
        source / "3_Dense" / "model.safetensors", lambda tensors: tensors.update(bias=np.zeros(3, np.float32))
    )
    message = refusal(source)
    assert "tensor projection.0.residual.weight is missing" in message
    assert "tensor projection.2.bias is not expected" in message


def test_projection_layers_must_fit_each_other(copy):
    source = copy("pylate-bert")
    edit(source / "1_Dense" / "config.json", in_features=48)
    message = refusal(source)
    assert "projection layer 0 takes 48 features, but gets 32" in message


def test_unknown_architecture_is_named_beside_the_known_ones(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", model_type="nomic_bert")
    message = refusal(source)
    assert "unknown architecture 'nomic_bert'" in message
    assert "bert, camembert, distilbert, modernbert, roberta, xlm-roberta" in message


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("pylate-bert", {"hidden_act": "mish"}, "unknown activation 'mish' in 'hidden_act'"),
        (
            "pylate-bert",
            {"position_embedding_type": "relative_key"},
            "'position_embedding_type' = 'relative_key' is not",
        ),
        ("pylate-bert", {"is_decoder": True}, "'is_decoder' = True is not implemented"),
        ("pylate-bert", {"attention_temperature": 0.5}, "'attention_temperature' = 0.5 is not understood"),
        ("pylate-bert", {"auto_map": {"AutoModel": "x.Y"}}, "'auto_map' ="),
        ("pylate-bert", {"quantization_config": {"bits": 4}}, "'quantization_config' ="),
        ("pylate-bert", {"num_attention_heads": 5}, "hidden_size 32 is not a multiple of n_heads 5"),
        ("pylate-bert", {"hidden_size": "32"}, "'hidden_size' must be an integer"),
        ("pylate-bert", {"layer_norm_eps": -1}, "'layer_norm_eps' must be a number > 0"),
        ("pylate-modernbert-flat", {"rope_scaling": {"type": "yarn"}}, "'rope_scaling' ="),
        ("pylate-modernbert", {"is_causal": True}, "'is_causal' = True is not implemented"),
        (
            "pylate-modernbert",
            {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
            "is not periodic",
        ),
        (
            "pylate-modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}},
            "'rope_parameters'",
        ),
    ],
)
def test_setting_that_changes_the_mathematics_and_is_not_understood_is_refused(copy, name, change, complaint):
    source = copy(name)
    edit(source / "config.json", **change)
    assert complaint in refusal(source)


def test_all_settings_that_are_not_understood_are_listed_at_once(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", hidden_act="mish", is_decoder=True, alibi=True)
    message = refusal(source)
    assert all(word in message for word in ("'mish'", "'is_decoder'", "'alibi'"))


def test_harmless_and_empty_settings_are_ignored(copy):
    source = copy("pylate-bert")
    edit(
        source / "config.json", _name_or_path="x", id2label={"0": "a"}, hidden_dropout_prob=0.3, unknown=None
    )
    convert(source, source.parent / "target")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "unknown activation 'torch.nn.modules"),
        ({"activation_function": "os.system"}, "unknown activation 'os.system'"),
        ({"glu": True}, "'glu' = True is not understood"),
        ({"bias": "no"}, "'bias' must be true or false"),
        ({"in_features": -1}, "must be positive"),
        ({"module_output_name": "aside"}, "'module_output_name' 'aside' is not implemented"),
        ({"module_input_name": "all_layers"}, "'module_input_name' 'all_layers' is not implemented"),
    ],
)
def test_projection_setting_that_is_not_understood_is_refused(copy, change, complaint):
    source = copy("pylate-bert")
    edit(source / "1_Dense" / "config.json", **change)
    assert complaint in refusal(source)


@pytest.mark.parametrize(
    ("name", "file", "change", "complaint"),
    [
        ("stanford-bert", "artifact.metadata", {"dim": 99}, "'dim' is 99, but linear.weight has 16 rows"),
        (
            "stanford-bert",
            "artifact.metadata",
            {"interaction": "flipr"},
            "'interaction' 'flipr' is not implemented",
        ),
        (
            "stanford-bert",
            "artifact.metadata",
            {"query_maxlen": "32"},
            "'query_maxlen' must be a number of tokens",
        ),
        ("native-bert", "sentence_bert_config.json", {"transformer_task": "fill-mask"}, "'transformer_task'"),
        (
            "native-bert",
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "x"}},
            "needs a strategy",
        ),
        (
            "native-bert",
            "2_MultiVectorMask/config.json",
            {"keep_only_token_ids": [3]},
            "'keep_only_token_ids' = [3]",
        ),
        (
            "native-bert",
            "2_MultiVectorMask/config.json",
            {"skiplist_tasks": ["title"]},
            "unknown task 'title'",
        ),
        (
            "pylate-bert",
            "config_sentence_transformers.json",
            {"skiplist_words": "!"},
            "'skiplist_words' must be",
        ),
        (
            "pylate-bert",
            "config_sentence_transformers.json",
            {"document_length": 0},
            "'document_length' must be",
        ),
        (
            "pylate-bert",
            "config_sentence_transformers.json",
            {"query_length": 500},
            "to be filled up to 500 tokens, but may have 128",
        ),
    ],
)
def test_colbert_setting_that_is_not_understood_is_refused(copy, name, file, change, complaint):
    source = copy(name)
    edit(source / file, **change)
    assert complaint in refusal(source)


def modules(source: Path, change) -> None:
    path = source / "modules.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def test_module_of_an_unknown_kind_is_refused(copy):
    source = copy("native-bert")
    modules(
        source,
        lambda entries: entries.insert(1, {"idx": 9, "path": "9_X", "type": "x.HierarchicalTokenPooling"}),
    )
    assert "a HierarchicalTokenPooling at this place is not implemented" in refusal(source)


def test_native_checkpoint_without_normalisation_is_refused(copy):
    source = copy("native-bert")
    modules(source, lambda entries: entries.pop())
    assert "no Normalize module" in refusal(source)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "..\\b"])
def test_module_path_that_leaves_the_checkpoint_is_refused(copy, path):
    source = copy("pylate-bert")
    modules(source, lambda entries: entries[1].update(path=path))
    assert "leads out of the checkpoint" in refusal(source)


def test_stale_module_list_beside_a_stanford_checkpoint_is_passed_over(copy):
    source = copy("stanford-bert")
    entry = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (source / "modules.json").write_text(json.dumps([entry]))
    folder = convert(source, source.parent / "target")
    assert checkpoint.read_config(folder).source.layout == "stanford"


def test_stanford_checkpoint_without_its_projection_is_refused(copy):
    source = copy("stanford-bert")
    edit_tensors(source / "model.safetensors", lambda tensors: tensors.pop("linear.weight"))
    assert "tensor linear.weight, the projection, is missing" in refusal(source)


def test_pickle_that_calls_anything_is_refused_by_name(copy):
    source = copy("plain-bert-legacy-bin")
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "os.system" in refusal(source, UnsafeCheckpointError)


def test_folder_without_config_is_no_checkpoint(tmp_path):
    (tmp_path / "source").mkdir()
    assert "config.json is missing" in refusal(tmp_path / "source", CheckpointNotFoundError)


def test_missing_folder_that_is_no_hub_id_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"there is no such folder, and this is no hub id"):
        convert("./no/such/folder", tmp_path / "model")


def test_unreadable_tokenizer_is_refused(copy):
    source = copy("pylate-bert")
    (source / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "the tokenizer cannot be read" in refusal(source)


def test_converted_folder_is_not_converted_again(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    with pytest.raises(CheckpointError, match="is converted already"):
        convert(folder, tmp_path / "again")


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


@pytest.mark.parametrize(("bits", "group_size"), [(3, 64), (4, 16), (0, 64)])
def test_quantisation_out_of_range_is_refused(tmp_path, bits, group_size):
    with pytest.raises(ConfigError, match="bits must be 2, 4 or 8"):
        convert(
            CHECKPOINTS / "pylate-bert", tmp_path / "m", quantize=True, q_bits=bits, q_group_size=group_size
        )


def test_group_size_that_divides_no_matrix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no matrix has a width that group size 128 divides"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", quantize=True, q_group_size=128)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("dim", "complaint"), [(0, "must be in 1..31, got 0"), (32, "must be in 1..31, got 32")]
)
def test_fitted_projection_of_an_impossible_size_is_refused(tmp_path, texts, dim, complaint):
    with pytest.raises(ConfigError, match=complaint):
        convert(CHECKPOINTS / "plain-bert", tmp_path / "model", projection_dim=dim, fit_on=texts)


def test_checkpoint_with_a_head_takes_no_other(tmp_path, texts):
    with pytest.raises(ConfigError, match="pylate-bert has a projection of its own"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", projection_dim=8, fit_on=texts)


def test_projection_without_texts_is_refused(tmp_path):
    with pytest.raises(InputError, match="give both, or neither"):
        convert(CHECKPOINTS / "plain-bert", tmp_path / "model", projection_dim=8)


def test_source_that_is_not_converted_is_converted_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    first = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    second = ColBERT.load(CHECKPOINTS / "pylate-bert", backend="numpy")
    assert first.fingerprint == second.fingerprint
    assert [path for path in (tmp_path / "cache").iterdir()] == [folder]
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_changed_source_is_converted_anew(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path / "cache"))
    source = copy("pylate-bert")
    ColBERT.load(source, backend="numpy")
    edit(source / "config_sentence_transformers.json", query_length=20)
    assert ColBERT.load(source, backend="numpy").config.colbert.query_length == 20


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_converted_folder_that_lacks_a_file_says_which(tmp_path, file):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(CheckpointNotFoundError, match=file):
        ColBERT.load(folder, backend="numpy")


def test_converted_folder_with_an_unknown_setting_is_refused(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["attention_sinks"] = 4
    config["colbert"]["query_length"] = "long"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="'attention_sinks' is not understood"):
        ColBERT.load(folder, backend="numpy")


def test_converted_folder_with_wrong_tensors_lists_them(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("layers.0.mlp.up.bias"))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up\.bias is missing"):
        ColBERT.load(folder, backend="numpy")


@pytest.mark.parametrize("name", ["pylate-bert", "plain-bert", "pylate-roberta", "stanford-xlmr"])
def test_checkpoint_without_a_tokenizer_is_refused(copy, name):
    source = copy(name)
    for file in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"):
        (source / file).unlink(missing_ok=True)
    assert "no tokenizer here; looked for tokenizer.json" in refusal(source, CheckpointNotFoundError)


def test_tokenizer_of_another_model_is_refused(copy):
    source = copy("plain-bert")
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    assert "the tokenizer knows 5 tokens, the encoder 520" in refusal(source)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vocab": "/etc/passwd"}, "'vocab' names a file of its own. Refused"),
        ({"model_max_length": "512"}, "'model_max_length' must be a number of tokens, got '512'"),
        ({"model_max_length": []}, "'model_max_length' must be a number of tokens"),
    ],
)
def test_tokenizer_setting_that_makes_no_sense_is_refused(copy, change, complaint):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", **change)
    assert complaint in refusal(source)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("pylate-bert", {"num_hidden_layers": 10**9}, "n_layers must be at most 1024"),
        ("pylate-bert", {"model_type": []}, "unknown architecture []"),
        ("pylate-bert", {"hidden_act": {}}, "unknown activation {}"),
        ("pylate-bert", {"layer_norm_eps": 10**400}, "'layer_norm_eps' must be a number > 0"),
        ("pylate-modernbert", {"layer_types": 5}, "'layer_types' 5 is not periodic"),
        ("pylate-modernbert", {"num_hidden_layers": 10**9}, "n_layers must be at most 1024"),
    ],
)
def test_absurd_value_is_refused_at_once(copy, name, change, complaint):
    source = copy(name)
    edit(source / "config.json", **change)
    message = refusal(source)
    assert complaint in message
    assert len(message) < 3000


def test_architectures_of_another_type_do_not_matter(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", architectures=5)
    assert convert(source, source.parent / "target").is_dir()


def test_integer_weights_are_refused(copy):
    source = copy("pylate-bert")
    name = "encoder.layer.0.output.dense.weight"
    edit_tensors(source / "model.safetensors", lambda t: t.update({name: np.ones((32, 64), np.int32)}))
    assert f"tensor {name} holds integers" in refusal(source)


def test_problems_of_settings_config_and_tensors_are_in_one_error(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", hidden_act="mish", alibi=True)
    edit(source / "config_sentence_transformers.json", token_pooling_factor=3)
    edit_tensors(source / "model.safetensors", lambda t: t.pop("encoder.layer.0.output.dense.bias"))
    edit_tensors(source / "1_Dense" / "model.safetensors", lambda t: t.update(extra=np.ones(1, np.float32)))
    message = refusal(source)
    assert all(word in message for word in ("'mish'", "'alibi'", "'token_pooling_factor'"))
    assert "encoder.layer.0.output.dense.bias is missing" in message
    assert "projection.0.extra is not expected" in message


def test_changed_tokenizer_of_a_converted_folder_is_noticed(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text + " ", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json was changed after the conversion"):
        ColBERT.load(folder, backend="numpy")


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"encoder": {"n_layers": 10**9}}, "n_layers must be at most 1024"),
        ({"encoder": {"norm_eps": 10**400}}, "'norm_eps' must be a number > 0"),
        ({"colbert": {"expansion_token_id": 10**30}}, "'expansion_token_id' must be a token id"),
    ],
)
def test_absurd_value_of_a_converted_folder_is_refused(tmp_path, sections, complaint):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for section, changes in sections.items():
        config[section].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=complaint):
        ColBERT.load(folder, backend="numpy")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that holds the test checkpoints under owner/, and what was asked of it."""
    from huggingface_hub.utils import filter_repo_objects

    asked: list[str] = []

    def snapshot_download(repo, *, revision, allow_patterns, ignore_patterns=None):
        source, target = CHECKPOINTS / repo.removeprefix("owner/"), tmp_path / "hub" / "abc123"
        names = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
        for name in filter_repo_objects(
            names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            asked.append(name)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.iterdir()))
def test_every_layout_loads_from_the_hub(hub, name):
    model = ColBERT.load(f"owner/{name}", backend="numpy")
    assert model.revision == "abc123"
    assert (model.encode_document("the cat").shape[1]) == model.dim


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub):
    ColBERT.load("owner/pylate-bert-old", backend="numpy")
    assert "1_Dense/pytorch_model.bin" in hub
    assert [name for name in hub if name.endswith(".bin")] == ["1_Dense/pytorch_model.bin"]


def test_hub_that_is_out_of_reach_says_so(monkeypatch):
    with pytest.raises(CheckpointNotFoundError, match="and the hub did not deliver it"):
        ColBERT.load("owner/not-there", backend="numpy")


def test_widest_type_of_backbone_and_projection_is_kept(copy):
    source = copy("pylate-bert")
    half = {name: value.astype(np.float16) for name, value in load_file(source / "model.safetensors").items()}
    save_file(half, source / "model.safetensors")
    assert checkpoint.read_config(convert(source, source.parent / "target")).dtype == "float32"


@pytest.mark.parametrize(
    ("name", "file", "change", "complaint"),
    [
        (
            "pylate-bert",
            "tokenizer_config.json",
            {"padding_side": "left"},
            "padding_side 'left' is not implemented",
        ),
        ("pylate-bert", "tokenizer_config.json", {"truncation_side": "left"}, "truncation_side 'left'"),
        ("pylate-bert", "tokenizer_config.json", {"split_special_tokens": True}, "split_special_tokens True"),
        (
            "native-bert",
            "3_Normalize/config.json",
            {"module_input_name": "sentence_embedding"},
            "no Normalize module",
        ),
        (
            "native-bert",
            "1_Dense/config.json",
            {"module_input_name": "sentence_embedding"},
            "'module_input_name'",
        ),
        (
            "native-bert",
            "config_sentence_transformers.json",
            {"similarity_fn_name": "l2"},
            "'similarity_fn_name' 'l2'",
        ),
        (
            "pylate-bert",
            "sentence_bert_config.json",
            {"query_length": 24},
            "'query_length' is not implemented for",
        ),
        (
            "native-modernbert",
            "sentence_bert_config.json",
            {"query_length": 8},
            "8 is below the expansion's 12",
        ),
    ],
)
def test_setting_that_would_be_ignored_is_refused(copy, name, file, change, complaint):
    source = copy(name)
    edit(source / file, **change)
    assert complaint in refusal(source)


def test_token_normalisation_before_a_dense_layer_is_refused(copy):
    source = copy("pylate-bert")
    (source / "9_Normalize").mkdir()
    (source / "9_Normalize" / "config.json").write_text('{"module_input_name": "token_embeddings"}')
    entry = {
        "idx": 9,
        "path": "9_Normalize",
        "type": "sentence_transformers.base.modules.normalize.Normalize",
    }
    modules(source, lambda entries: entries.insert(1, entry))
    assert "a Dense at this place is not implemented" in refusal(source)


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
