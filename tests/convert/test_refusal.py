"""What the converter refuses, in one error and without leaving anything behind."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from spoiling import CHECKPOINTS, edit, edit_tensors, modules, refusal

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.convert.families.registry import REGISTRY
from mlx_colbert.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    InputError,
    TargetExistsError,
    UnsafeCheckpointError,
)
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.safetensors_file import read_safetensors


def test_existing_target_is_refused_and_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(TargetExistsError, match=r"exists already\. Remove it, or choose another --mlx-path"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


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
    assert "projection layer 0 reads 48 components, but its input has 32" in message


def test_unknown_architecture_is_named_beside_the_known_ones(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", model_type="nomic_bert")
    message = refusal(source)
    assert "unknown architecture 'nomic_bert'" in message
    assert ", ".join(sorted(REGISTRY)) in message


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
            "must be filled up to 500 tokens, but have at most 128",
        ),
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
            "there is no Normalize module",
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
def test_colbert_setting_that_is_not_understood_is_refused(copy, name, file, change, complaint):
    source = copy(name)
    edit(source / file, **change)
    assert complaint in refusal(source)


def test_module_of_an_unknown_kind_is_refused(copy):
    source = copy("native-bert")
    modules(
        source,
        lambda entries: entries.insert(1, {"idx": 9, "path": "9_X", "type": "x.HierarchicalTokenPooling"}),
    )
    assert "a x.HierarchicalTokenPooling module at this place is not implemented" in refusal(source)


def test_native_checkpoint_without_normalisation_is_refused(copy):
    source = copy("native-bert")
    modules(source, lambda entries: entries.pop())
    assert "there is no Normalize module" in refusal(source)


@pytest.mark.parametrize(
    "path", ["../elsewhere", "/etc", "/", "a/../../b", "..\\b", ".hidden", "x" * 5000, "a\0b", "\ud800"]
)
def test_module_path_that_leaves_the_checkpoint_is_refused(copy, path):
    source = copy("pylate-bert")
    modules(source, lambda entries: entries[1].update(path=path))
    assert "is not within the checkpoint" in refusal(source, UnsafeCheckpointError)


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


def test_unreadable_tokenizer_is_refused(copy):
    source = copy("pylate-bert")
    (source / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "the tokenizer cannot be read" in refusal(source)


@pytest.mark.parametrize(("bits", "group_size"), [(3, 64), (4, 16), (0, 64)])
def test_quantisation_out_of_range_is_refused(tmp_path, bits, group_size):
    with pytest.raises(ConfigError, match="bits must be 2, 4 or 8"):
        convert(
            CHECKPOINTS / "pylate-bert", tmp_path / "m", quantize=True, q_bits=bits, q_group_size=group_size
        )


def test_group_size_that_divides_no_matrix_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="group size 128 divides the width of no matrix"):
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model", quantize=True, q_group_size=128)
    assert list(tmp_path.iterdir()) == []


def test_projection_without_texts_is_refused(tmp_path):
    with pytest.raises(InputError, match="give both, or neither"):
        convert(CHECKPOINTS / "plain-bert", tmp_path / "model", projection_dim=8)


@pytest.mark.parametrize("name", ["pylate-bert", "plain-bert", "pylate-roberta", "stanford-xlmr"])
def test_checkpoint_without_a_tokenizer_is_refused(copy, name):
    source = copy(name)
    for file in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"):
        (source / file).unlink(missing_ok=True)
    assert "has no tokenizer. It needs one of tokenizer.json" in refusal(source, CheckpointNotFoundError)


def test_tokenizer_of_another_model_is_refused(copy):
    source = copy("plain-bert")
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    assert "the tokenizer has 5 tokens, the encoder 520" in refusal(source)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"vocab": "/etc/passwd"}, "'vocab' names a file outside the checkpoint. Refused"),
        ({"vocab_file": "/etc/passwd"}, "'vocab_file' names a file outside the checkpoint. Refused"),
        ({"model_max_length": "512"}, "'model_max_length' must be a number of tokens, got '512'"),
        ({"model_max_length": []}, "'model_max_length' must be a number of tokens"),
    ],
)
def test_tokenizer_setting_that_makes_no_sense_is_refused(copy, change, complaint):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", **change)
    assert complaint in refusal(source)


def test_unknown_token_outside_the_vocabulary_is_refused(copy):
    source = copy("stanford-bert")
    edit(source / "tokenizer_config.json", unk_token="32")
    assert "the token of unknown words, '32', is not in the vocabulary" in refusal(source)


def test_skiplist_word_that_is_not_unicode_is_refused(copy):
    source = copy("pylate-bert")
    edit(source / "config_sentence_transformers.json", skiplist_words=["!", "\ud800"])
    assert "the tokenizer does not work" in refusal(source)


def test_tokenizer_with_an_infinite_limit_has_none(copy, tmp_path):
    source = copy("plain-bert")
    edit(source / "tokenizer_config.json", model_max_length=float("inf"))
    assert read_config(convert(source, tmp_path / "model")).colbert.document_length == 128


def link(path: Path, target: Path) -> None:
    """Moves a file elsewhere, and puts a symbolic link in its place."""
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "1_Dense", "1_Dense/config.json"]
)
def test_link_out_of_the_checkpoint_is_refused(copy, tmp_path, file):
    source = copy("pylate-bert")
    (tmp_path / "elsewhere").mkdir()
    link(source / file, tmp_path / "elsewhere" / "target")
    with pytest.raises(
        UnsafeCheckpointError, match=r"is a symbolic link to .*target, outside the checkpoint"
    ):
        convert(source, tmp_path / "model")
    with pytest.raises(UnsafeCheckpointError, match="outside the checkpoint"):
        ColBERT.load(source, backend="numpy")


def test_file_that_a_tokenizer_names_but_nobody_has_does_no_harm(copy, tmp_path):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", tokenizer_file="/elsewhere/tokenizer.json", vocab_file="x" * 5000)
    assert convert(source, tmp_path / "model").is_dir()


def test_link_out_of_the_checkpoint_that_nobody_reads_is_no_reason(copy, tmp_path):
    source = copy("pylate-bert")
    (source / "venv" / "bin").mkdir(parents=True)
    (source / "venv" / "bin" / "python").symlink_to(sys.executable)
    (source / "venv" / "config.json").symlink_to("/etc/passwd")
    (source / "logs").symlink_to("/tmp")
    (source / "notes").symlink_to("/etc/passwd")
    assert convert(source, tmp_path / "model").is_dir()


def test_link_that_the_user_names_is_followed(copy, tmp_path):
    source = copy("pylate-bert")
    (tmp_path / "link").symlink_to(source)
    assert convert(tmp_path / "link", tmp_path / "model").is_dir()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pylate-bert", "model.safetensors"),
        ("pylate-bert", "1_Dense/model.safetensors"),
        ("plain-bert-legacy-bin", "pytorch_model.bin"),
    ],
)
def test_weight_file_on_another_disk_is_followed(copy, tmp_path, name, file):
    source = copy(name)
    (tmp_path / "disk").mkdir()
    link(source / file, tmp_path / "disk" / f"weights{Path(file).suffix}")
    converted = convert(source, tmp_path / "model")
    expected = convert(CHECKPOINTS / name, tmp_path / "original")
    assert (converted / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_weight_file_that_is_a_blob_of_the_hubs_cache_is_followed(copy, tmp_path, monkeypatch):
    source, blobs = copy("pylate-bert"), tmp_path / "cache" / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    link(source / "model.safetensors", blobs / ("0" * 64))
    assert "outside the checkpoint" in str(caught(source, tmp_path / "model"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert convert(source, tmp_path / "model").is_dir()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.onnx"])
def test_secret_behind_a_link_of_weights_is_refused_and_nothing_of_it_is_shown(copy, tmp_path, file):
    source = copy("pylate-bert")
    (source / "model.safetensors").unlink()
    secret = tmp_path / "secret"
    secret.write_text("cpassword\nhunter2\n.")
    (source / file).symlink_to(secret)
    message = caught(source, tmp_path / "model")
    assert "is a symbolic link" in message and "hunter2" not in message


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "1_Dense/config.json"])
def test_settings_behind_a_link_are_refused_whatever_their_name(copy, tmp_path, file):
    source = copy("pylate-bert")
    link(source / file, tmp_path / f"elsewhere{Path(file).suffix}")
    assert "outside the checkpoint" in caught(source, tmp_path / "model")


def caught(source: Path, target: Path) -> str:
    with pytest.raises(UnsafeCheckpointError) as error:
        convert(source, target)
    return str(error.value)


@pytest.mark.parametrize("moved", ["blobs", "blob"])
def test_blobs_of_the_hubs_cache_may_be_moved_to_another_disk(copy, tmp_path, monkeypatch, moved):
    repository = tmp_path / "cache" / "models--owner--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    copy("plain-bert").rename(snapshot)
    (repository / "blobs").mkdir()
    (tmp_path / "disk").mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(repository / "blobs" / path.name)
        path.symlink_to(Path("..", "..", "blobs", path.name))
    if moved == "blobs":
        link(repository / "blobs", tmp_path / "disk" / "blobs")
    else:
        for path in list((repository / "blobs").iterdir()):
            link(path, tmp_path / "disk" / path.name)
    with pytest.raises(UnsafeCheckpointError, match="outside the checkpoint"):
        convert(snapshot, tmp_path / "model")  # the same layout, from a stranger
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert convert(snapshot, tmp_path / "model").is_dir()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeCheckpointError, match="passwd, outside the checkpoint"):
        convert(snapshot, tmp_path / "again")


def test_link_to_itself_is_a_missing_file(copy):
    source = copy("pylate-bert")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to("model.safetensors")
    assert "has no weights" in refusal(source, CheckpointNotFoundError)


def test_links_within_a_checkpoint_and_hidden_ones_are_followed(copy, tmp_path):
    source = copy("pylate-bert")
    link(source / "model.safetensors", source / "weights.safetensors")
    (source / ".git").mkdir()
    (source / ".git" / "hooks").symlink_to("/etc")
    assert convert(source, tmp_path / "model").is_dir()


def test_snapshot_in_the_hubs_cache_is_converted_as_a_folder(copy, tmp_path):
    snapshot = tmp_path / "models--owner--model" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    copy("plain-bert").rename(snapshot)
    (tmp_path / "models--owner--model" / "blobs").mkdir()
    for path in list(snapshot.iterdir()):
        link(path, tmp_path / "models--owner--model" / "blobs" / path.name)
    assert convert(snapshot, tmp_path / "model").is_dir()
    (snapshot / "vocab.txt").unlink()
    (snapshot / "vocab.txt").symlink_to(tmp_path / "models--owner--model" / "blobs" / ".." / ".." / "secret")
    with pytest.raises(UnsafeCheckpointError, match="secret, outside the checkpoint"):
        convert(snapshot, tmp_path / "again")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_oversized_file_of_a_converted_model_is_not_read(tmp_path, file):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    os.truncate(folder / file, 1 << 30)
    tracemalloc.start()
    with pytest.raises(
        UnsafeCheckpointError, match="has 1073741824 bytes; no real file of this kind has more than"
    ):
        ColBERT.load(folder, backend="numpy")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("pylate-bert", {"num_hidden_layers": 10**9}, "n_layers must be at most 1024"),
        ("pylate-bert", {"model_type": []}, "unknown architecture []"),
        ("pylate-bert", {"hidden_act": {}}, "unknown activation {}"),
        ("pylate-bert", {"layer_norm_eps": 10**400}, "'layer_norm_eps' must be a number > 0"),
        ("pylate-bert", {"hidden_size": 10**400}, "'hidden_size' must be an integer in 0..2147483647"),
        (
            "pylate-bert",
            {"vocab_size": 2**31},
            "'vocab_size' must be an integer in 0..2147483647, got 2147483648",
        ),
        ("pylate-bert", {"max_position_embeddings": 10**4000}, "got an integer of 13288 bits"),
        ("stanford-jina-bert", {"feed_forward_type": "x" * 10**5}, "'feed_forward_type' = 'xxx"),
        ("pylate-modernbert", {"layer_types": 5}, "'layer_types' 5 is not periodic"),
        ("pylate-modernbert", {"num_hidden_layers": 10**9}, "n_layers must be at most 1024"),
    ],
)
def test_absurd_value_is_refused_at_once(copy, name, change, complaint):
    source = copy(name)
    edit(source / "config.json", **change)
    message = refusal(source)
    assert complaint in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("pylate-bert", "1_Dense/config.json", {"in_features": 10**400}),
        ("pylate-bert", "config_sentence_transformers.json", {"query_length": 10**4000}),
        ("stanford-bert", "artifact.metadata", {"query_maxlen": 10**4000}),
        ("stanford-bert", "artifact.metadata", {"dim": 10**4000}),
        (
            "native-modernbert",
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "min", "length": 10**4000}},
        ),
    ],
)
def test_number_of_a_settings_file_is_short_in_a_message(copy, name, file, change):
    source = copy(name)
    edit(source / file, **change)
    assert len(refusal(source)) < 1000


@pytest.mark.parametrize(
    ("part", "key"), [("encoder", "hidden_size"), ("encoder", "norm_eps"), ("colbert", "query_length")]
)
@pytest.mark.parametrize("number", [10**4000, -(10**4000)])
def test_number_of_a_converted_model_is_short_in_a_message(tmp_path, part, key, number):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())[part]
    edit(folder / "config.json", **{part: {**values, key: number}})
    with pytest.raises(ConfigError, match=f"'{key}' cannot be an integer of 13288 bits"):
        ColBERT.load(folder, backend="numpy")


def test_integer_weights_are_refused(copy):
    source = copy("pylate-bert")
    name = "encoder.layer.0.output.dense.weight"
    edit_tensors(source / "model.safetensors", lambda t: t.update({name: np.ones((32, 64), np.int32)}))
    assert f"tensor {name} contains integers" in refusal(source)


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
    assert "a Dense module at this place is not implemented" in refusal(source)


@pytest.mark.parametrize("depth", [70, 100_000])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "modules.json"])
def test_deeply_nested_settings_are_an_error(copy, file, depth):
    source = copy("pylate-bert")
    text = '{"auto_map": ' + "[" * depth + "]" * depth + "}"
    (source / file).write_text(f"[{text}]" if file == "modules.json" else text)
    assert "nested too deeply" in refusal(source)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "colbert_linear.pt"])
@pytest.mark.parametrize("place", ["", "1_Dense"])
def test_file_that_changes_the_weights_beside_it_is_refused(copy, name, place):
    source = copy("pylate-bert")
    (source / place / name).write_text("{}")
    assert f"{name}: " in refusal(source)


def test_list_of_too_many_modules_is_refused_before_their_files_are_read(copy):
    source = copy("pylate-bert")
    modules(source, lambda entries: entries.extend(entries[1:2] * 100))
    assert "more than 100" in refusal(source)


def test_name_of_a_tensor_cannot_write_lines_of_its_own(copy):
    source = copy("stanford-bert")
    extra = {"a\nmlx-colbert: all is well\n": np.ones(1, np.float32)}
    edit_tensors(source / "model.safetensors", lambda tensors: tensors.update(extra))
    assert "tensor a mlx-colbert: all is well  is not expected" in refusal(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["other.json", "merges.txt", "vocab.json"])
def test_pipe_beside_a_checkpoint_is_refused(copy, name):
    source = copy("stanford-bert")
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    assert "is a pipe or a device" in refusal(source)


def test_adapter_without_weights_is_named(copy):
    source = copy("plain-bert")
    (source / "pytorch_model.bin").unlink(missing_ok=True)
    (source / "model.safetensors").unlink(missing_ok=True)
    (source / "adapter_model.safetensors").write_bytes(b"")
    assert "merge_and_unload" in refusal(source)


@pytest.mark.parametrize(("number", "kind"), [(0, "custom_st.Transformer"), (1, "modeling.Dense")])
def test_module_that_is_code_of_the_repository_is_refused(copy, number, kind):
    source = copy("pylate-bert")
    modules(source, lambda entries: entries[number].update(type=kind))
    assert kind in refusal(source)


def test_tokenizer_that_is_code_of_the_repository_is_refused(copy):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Mine", None]})
    assert "'auto_map' names a tokenizer that is code" in refusal(source)


def test_token_beyond_the_embedding_table_is_refused(copy):
    source = copy("pylate-bert")
    path = source / "tokenizer.json"
    values = json.loads(path.read_text())
    added = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    values["added_tokens"].append({"id": 520, "content": "zebra", **added})
    path.write_text(json.dumps(values))
    assert "the token 'zebra' has the id 520, beyond the 520 rows" in refusal(source)


def test_dropout_of_a_tokenizer_is_turned_off(copy, tmp_path):
    source = copy("pylate-roberta")
    path = source / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["dropout"] = 0.9
    path.write_text(json.dumps(values))
    model = ColBERT.load(convert(source, tmp_path / "model"), backend="numpy")
    expected = ColBERT.load(CHECKPOINTS / "pylate-roberta", backend="numpy")
    for _ in range(5):
        assert model.token_ids("the cat sat on it", "document") == expected.token_ids(
            "the cat sat on it", "document"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"transformers.js_config": {"dtype": "q8"}},
        {"loss_type": "ForMaskedLM", "use_sdpa": True, "matryoshka_dims": [128, 64], "truncate_dim": 64},
        {"trust_remote_code": False, "onnx": {"opset": 14}, "torch_compile": True},
    ],
)
def test_setting_that_cannot_change_the_vectors_is_passed_over(copy, tmp_path, change):
    source = copy("pylate-bert")
    edit(source / "config.json", **change)
    edit(source / "config_sentence_transformers.json", truncate_dim=64)
    edit(source / "tokenizer_config.json", model_max_length=512.0)
    config = read_config(convert(source, tmp_path / "model"))
    original = read_config(convert(CHECKPOINTS / "pylate-bert", tmp_path / "original"))
    assert replace(config, source=original.source) == original


@pytest.mark.parametrize("value", [512.5, 2.0, float("nan"), True])
def test_length_that_is_no_number_of_tokens_is_refused(copy, value):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", model_max_length=value)
    assert "'model_max_length' must be a number of tokens" in refusal(source)


def test_setting_that_asks_for_code_is_refused(copy):
    source = copy("pylate-bert")
    edit(source / "config.json", trust_remote_code=True)
    assert "'trust_remote_code' = True is not implemented" in refusal(source)


def test_unknown_settings_are_ignored_by_name_and_recorded(copy, tmp_path):
    source = copy("pylate-bert")
    edit(source / "config.json", my_note="x")
    edit(source / "config_sentence_transformers.json", my_other="y")
    assert "--ignore-config-key NAME" in refusal(source)
    folder = convert(source, tmp_path / "model", ignore_config_keys=["my_other", "my_note"])
    assert read_config(folder).source.ignored_config_keys == ("my_note", "my_other")
    ColBERT.load(folder, backend="numpy")


@pytest.mark.parametrize("name", ["hidden_act", "is_decoder", "no_such_key"])
def test_setting_that_is_understood_cannot_be_ignored(copy, tmp_path, name):
    source = copy("pylate-bert")
    edit(source / "config.json", is_decoder=True)
    with pytest.raises(
        CheckpointError, match=f"the setting '{name}' cannot be ignored: it is missing, or it is understood"
    ):
        convert(source, tmp_path / "model", ignore_config_keys=[name])


@pytest.mark.parametrize("file", ["config_sentence_transformers.json"])
@pytest.mark.parametrize(
    "change", [{"document_prefix": "x" * 4_000_000}, {"prompts": {"query": "x " * 5000}}]
)
def test_prefix_that_is_longer_than_any_text_is_refused(copy, file, change):
    source = copy("pylate-bert")
    edit(source / file, **change)
    assert "at most 4096 are allowed" in refusal(source)


def test_prefix_of_a_converted_model_is_bounded_too(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    colbert = json.loads((folder / "config.json").read_text())["colbert"]
    edit(folder / "config.json", colbert={**colbert, "document_prefix": "x" * 4_000_000})
    with pytest.raises(ConfigError, match="at most 4096 are allowed"):
        ColBERT.load(folder, backend="numpy")
