"""Decoders as backbones: what mlx-lm's classes are asked for, and what the converter makes of a checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from decoders import DECODERS, SIZES, needs_mlx_lm
from safetensors.numpy import load_file
from spoiling import CHECKPOINTS, edit, edit_tensors, refusal

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.errors import BackendError, ConfigError
from mlx_colbert.model import folder as checkpoint
from mlx_colbert.model.backbones.decoder import DecoderConfig
from mlx_colbert.model.tokenizer import Tokenizer

TEXTS = ["Which planet is known as the red planet?", "Mars, for its reddish appearance.", ""]


@needs_mlx_lm
def test_numpy_refuses_a_decoder_and_names_the_backend_to_take(monkeypatch):
    with pytest.raises(BackendError, match="backend='mlx' or --backend mlx"):
        ColBERT.load(CHECKPOINTS / "native-lfm2", backend="numpy")
    monkeypatch.setenv("MLX_COLBERT_BACKEND", "numpy")
    with pytest.raises(BackendError, match="or unset MLX_COLBERT_BACKEND"):
        ColBERT.load(CHECKPOINTS / "native-lfm2")


def test_missing_mlx_lm_says_which_extra_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for system, extras in (("Darwin", r"\[decoder\]"), ("Linux", r"\[decoder,cpu\]")):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        with pytest.raises(BackendError, match=f"pip install 'mlx-colbert{extras}'"):
            DecoderConfig(family="qwen3", **SIZES).ops("auto")


@needs_mlx_lm
def test_auto_takes_mlx_for_a_decoder_where_there_is_no_gpu(monkeypatch):
    monkeypatch.delenv("MLX_COLBERT_BACKEND", raising=False)
    monkeypatch.setattr("mlx_colbert.kernels._mlx_has_gpu", lambda: False)
    assert ColBERT.load(CHECKPOINTS / "native-qwen3").backend == "mlx"
    assert ColBERT.load(CHECKPOINTS / "native-bert").backend == "numpy"


@pytest.mark.slow
def test_conversion_needs_no_mlx(tmp_path):
    code = """
import sys
from pathlib import Path
from mlx_colbert.convert import convert
source, target, *names = sys.argv[1:]
for name in names:
    convert(Path(source, name), Path(target, name))
    print(name, [m for m in ('mlx', 'mlx_lm', 'torch') if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, CHECKPOINTS, tmp_path, *DECODERS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.splitlines(), done.stderr) == ([f"{name} []" for name in DECODERS], "")


@needs_mlx_lm
def test_weights_are_what_mlx_lm_makes_of_the_checkpoint(tmp_path):
    import mlx.core as mx
    from mlx_lm.models import lfm2

    values = json.loads((CHECKPOINTS / "native-lfm2" / "config.json").read_text())
    theirs = lfm2.Model(lfm2.ModelArgs.from_dict({**values, "block_dim": 32})).sanitize(
        mx.load(str(CHECKPOINTS / "native-lfm2" / "model.safetensors"))
    )
    mine = load_file(convert(CHECKPOINTS / "native-lfm2", tmp_path / "model") / "model.safetensors")
    assert {name for name in mine if not name.startswith("projection.")} == set(theirs)
    assert all(np.array_equal(mine[name], np.array(value)) for name, value in theirs.items())


def test_language_model_with_its_head_is_read_too(copy, tmp_path):
    source = copy("native-lfm2")

    def wrap(tensors):
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        tensors["lm_head.weight"] = np.zeros((522, 32), np.float32)

    edit_tensors(source / "model.safetensors", wrap)
    edit(source / "config.json", architectures=["Lfm2ForCausalLM"])
    plain, wrapped = (
        load_file(convert(folder, tmp_path / f"{folder.name}-mlx") / "model.safetensors")
        for folder in (CHECKPOINTS / "native-lfm2", source)
    )
    assert all(np.array_equal(plain[name], wrapped[name]) for name in plain)


def test_config_of_a_decoder_is_read_back_as_it_was_written(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-lfm2", tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    assert "encoder" not in values
    assert values["decoder"]["attention_layers"] == [1]
    # Two thirds of block_ff_dim, rounded up to a multiple of block_multiple_of.
    assert values["decoder"]["intermediate_size"] == 48
    config = checkpoint.read_config(folder)
    assert isinstance(config.encoder, DecoderConfig)
    assert json.loads(json.dumps(config.to_dict())) == values
    (folder / "config.json").write_text(json.dumps({**values, "encoder": {}}))
    with pytest.raises(ConfigError, match="must have either 'encoder' or 'decoder'"):
        checkpoint.read_config(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"family": "qwen3", "n_kv_heads": 0}, "'n_kv_heads' must be at least 1, got 0"),
        ({"family": "qwen3", "n_layers": 10**9}, "n_layers must be at most 1024"),
        ({"family": "qwen3", "n_heads": 3, "n_kv_heads": 2}, "n_heads 3 is not a multiple of n_kv_heads 2"),
        ({"family": "qwen3", "head_size": 3}, "rotary positions need an even head_size, got 3"),
        ({"family": "qwen3", "conv_width": 3}, "qwen3 has no convolutions"),
        ({"family": "qwen3", "rope_theta": 0.0}, "'rope_theta' must be a number > 0"),
        ({"family": "lfm2", "conv_width": 3}, "'attention_layers' must be ascending numbers of layers"),
        ({"family": "lfm2", "conv_width": 3, "attention_layers": (2,)}, "'attention_layers' must be"),
        ({"family": "lfm2", "attention_layers": (0,)}, "'conv_width' must be at least 2, got 0"),
        (
            {"family": "lfm2", "conv_width": 3, "attention_layers": (0,), "head_size": 6},
            "2 heads of 6 are not equal to hidden_size 8",
        ),
        (
            {"family": "lfm2", "conv_width": 3, "attention_layers": (0,), "bidirectional": True},
            "a bidirectional lfm2 is not implemented",
        ),
    ],
)
def test_settings_that_make_no_decoder_are_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        DecoderConfig(**{**SIZES, **changes})


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("native-lfm2", {"layer_types": ["conv", "mamba", "conv", "conv"]}, "'layer_types' ['conv', 'mamba'"),
        ("native-lfm2", {"conv_bias": True}, "'conv_bias' = True is not implemented"),
        (
            "native-lfm2",
            {"intermediate_size": 10**400},
            "'intermediate_size' must be an integer in 0..2147483647",
        ),
        ("native-lfm2", {"intermediate_size": 10**9}, "layers.0.feed_forward.w1.weight has shape (48, 32)"),
        ("native-lfm2", {"conv_dim": 64}, "'conv_dim' = 64 is not implemented"),
        ("native-lfm2", {"block_use_swiglu": False}, "'block_use_swiglu' = False is not implemented"),
        ("native-lfm2", {"is_causal": False}, "'is_causal' = False is not implemented"),
        ("native-lfm2", {"theta": 5.0}, "'theta' = 5.0 is not implemented"),
        ("native-lfm2", {"num_experts": 8}, "'num_experts' = 8 is not understood"),
        ("native-qwen3", {"attention_bias": True}, "'attention_bias' = True is not implemented"),
        ("native-qwen3", {"use_sliding_window": True}, "'use_sliding_window' = True is not implemented"),
        ("native-qwen3", {"layer_types": ["sliding_attention"] * 2}, "'layer_types' ['sliding_attention'"),
        ("native-qwen3", {"hidden_act": "gelu"}, "'hidden_act' = 'gelu' is not implemented"),
        (
            "native-qwen3",
            {"use_bidirectional_attention": True},
            "'use_bidirectional_attention' = True is not",
        ),
        ("native-qwen3", {"auto_map": {"AutoModel": "a.B"}}, "'auto_map' = {'AutoModel': 'a.B'} is not"),
        (
            "native-qwen3",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
            "'rope_type': 'yarn'}",
        ),
        (
            "pylate-pplx-qwen3",
            {"use_bidirectional_attention": False},
            "'use_bidirectional_attention' = False",
        ),
    ],
)
def test_config_that_changes_the_mathematics_is_refused(copy, name, changes, complaint):
    source = copy(name)
    edit(source / "config.json", **changes)
    assert complaint in refusal(source)


def test_lfm2_defined_by_code_of_its_own_is_refused_and_the_code_not_run(copy):
    source = copy("native-lfm2")
    code = source / "modeling_lfm2_bidirectional.py"
    code.write_text("raise SystemExit('was run')")
    auto_map = {"AutoModel": "modeling_lfm2_bidirectional.Lfm2BidirectionalModel"}
    edit(source / "config.json", architectures=["Lfm2BidirectionalModel"], auto_map=auto_map)
    assert "LFM2.5's bidirectional encoders. It is not implemented, and such code is never run" in refusal(
        source
    )


def test_settings_of_older_transformers_mean_the_same(copy, tmp_path):
    source = copy("native-lfm2")
    values = json.loads((source / "config.json").read_text())
    del values["rope_parameters"], values["layer_types"], values["intermediate_size"]
    liquids = {"block_dim": 32, "conv_dim": 32, "conv_dim_out": 32, "num_heads": 4, "theta": 1e6}
    flags = {"use_pos_enc": True, "block_use_swiglu": True, "block_use_xavier_init": True}
    values |= {"rope_theta": 1e6, "full_attn_idxs": [1], "block_ff_dim": 64, "block_norm_eps": 1e-5}
    (source / "config.json").write_text(json.dumps({**values, **liquids, **flags}))
    configs = [
        checkpoint.read_config(convert(folder, tmp_path / f"{folder.name}-mlx")).encoder
        for folder in (CHECKPOINTS / "native-lfm2", source)
    ]
    assert configs[0] == configs[1]


def test_tokenizer_that_gives_an_empty_text_no_token_is_refused(copy):
    source = copy("native-qwen3")
    edit(source / "config_sentence_transformers.json", prompts={"query": "[Q] ", "document": ""})
    assert "an empty text would have no token" in refusal(source)


@pytest.mark.parametrize("name", DECODERS)
def test_ten_thousand_words_are_truncated_on_the_right(name, tmp_path):
    folder = convert(CHECKPOINTS / name, tmp_path / "model")
    config = checkpoint.read_config(folder).colbert
    tokenizer = Tokenizer(folder / "tokenizer.json", config)
    words = "Which planet is known as the red planet? ".split()
    long, shorter = (" ".join(words * (n // len(words))) for n in (10_000, 400))
    for texts, length in (
        (tokenizer.queries([long, shorter, words[0]]).rows, config.query_length),
        (tokenizer.documents([long, shorter, words[0]]).rows, config.document_length),
    ):
        assert len(texts[0].ids) == length
        assert texts[0].ids.tolist() == texts[1].ids.tolist()
        # No token ends a text: the first ones are those of the short text.
        assert texts[0].ids[:3].tolist() == texts[2].ids[:3].tolist()


@needs_mlx_lm
@pytest.mark.parametrize(("name", "sees_later_tokens"), [(n, "pplx" in n) for n in DECODERS])
def test_only_a_bidirectional_decoder_sees_later_tokens(name, sees_later_tokens):
    model = ColBERT.load(CHECKPOINTS / name, dtype="float32")
    one, other = model.encode_document(["the red planet boils", "the red planet sleeps"])
    assert np.allclose(one[0], other[0], atol=1e-5) != sees_later_tokens


@needs_mlx_lm
@pytest.mark.parametrize("name", DECODERS)
def test_quantised_decoder_computes_with_its_rounded_weights(name, tmp_path):
    folder = convert(CHECKPOINTS / name, tmp_path / "rough", quantize=True, q_bits=8, q_group_size=32)
    config = checkpoint.read_config(folder)
    tensors = checkpoint.dequantized(checkpoint.read_tensors(folder, config), config)
    assert config.quantization is not None
    rough = ColBERT.load(folder, dtype="float32").encode_document(TEXTS).vectors

    import mlx.core as mx

    from mlx_colbert.kernels import get_encoder_ops
    from mlx_colbert.model.projection import project

    params = get_encoder_ops("mlx").load_params(tensors, "float32")
    params = config.encoder.prepared(params)
    texts = Tokenizer(folder / "tokenizer.json", config.colbert).documents(TEXTS).rows
    rows = []
    for text in texts:
        ids = text.ids[None]
        hidden = config.encoder.encode(get_encoder_ops("mlx"), params, ids, np.ones(ids.shape, bool))
        vectors: mx.array = project(get_encoder_ops("mlx"), params, config.projection, hidden)
        rows.append(np.array(vectors)[0][text.scored])
    np.testing.assert_allclose(rough, np.concatenate(rows), atol=1e-4)


@needs_mlx_lm
@pytest.mark.parametrize("name", DECODERS)
def test_decoder_loaded_on_one_thread_encodes_on_another(name):
    model = ColBERT.load(CHECKPOINTS / name)
    with ThreadPoolExecutor(1) as worker:
        elsewhere = worker.submit(model.encode_query, "one question").result()
    np.testing.assert_allclose(elsewhere, model.encode_query("one question"), atol=1e-6)
