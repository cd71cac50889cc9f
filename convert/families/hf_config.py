"""A Hugging Face config.json, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_colbert.convert.problems import Problems
from mlx_colbert.types import Activation
from mlx_colbert.untrusted import MAX_INTEGER, shown

__all__ = ["ACTIVATION_NAMES", "HFConfig", "is_positive"]

# The activations implemented here, by their names in transformers (ACT2FN).
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}

# The name to write for each activation.
ACTIVATION_NAMES: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}

# Keys that do not change the token vectors, by the reason.
_HARMLESS_FOR = {
    "bookkeeping, and names": """
        architectures model_type transformers_version torch_dtype dtype language license author name_or_path
        model_name revision commit_hash tokenizer_class sentence_transformers unsloth_version is_finetuned
        vocab_size_or_config_json_file""",
    "labels and tasks": """
        id2label label2id num_labels problem_type finetuning_task task_specific_params""",
    "what a call returns, not its values": """
        return_dict output_hidden_states output_attentions output_past output_scores return_dict_in_generate
        torchscript tf_legacy_loss chunk_size_feed_forward use_cache""",
    "speed: other programs for the same numbers": """
        attn_implementation use_bfloat16 reference_compile deterministic_flash_attn use_flash_attn
        use_flash_attention use_flash_attention_2 flash_attention use_sdpa use_memory_efficient_attention
        use_mem_efficient unpad_inputs fused_mlp fused_bias_fc fused_dropout_add_ln torch_compile
        pad_to_multiple_of""",
    "other run times: browsers, ONNX, OpenVINO": """
        transformers.js_config onnx onnx_config onnx_export_config openvino_config ort_config""",
    "training: losses, dropout, initial values": """
        loss_type loss_function label_smoothing gradient_checkpointing use_reentrant repad_logits_with_grad
        initializer_range initializer_cutoff_factor initializer_factor tie_word_embeddings tie_weights_
        tie_encoder_decoder hidden_dropout_prob attention_probs_dropout_prob hidden_dropout dropout
        attention_dropout embedding_dropout mlp_dropout qa_dropout seq_classif_dropout attn_pdrop resid_pdrop
        embd_pdrop classifier_dropout mlm_probability""",
    "heads that are not used": """
        classifier_activation classifier_bias classifier_pooling classifiers_size add_pooling_layer
        sparse_prediction sparse_pred_ignore_index decoder_bias directionality pooler_fc_size
        pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type summary_type
        summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
        summary_last_dropout""",
    "token ids, which the tokenizer has": """
        bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id pad_token_id decoder_start_token_id
        model_max_length""",
    # The dimensions that a model was trained for; sentence-transformers' truncate_dim is an argument of who
    # encodes, and its MultiVectorEncoder reads none from a file. `--dim` shortens vectors.
    "shorter vectors, which the user asks for": """
        matryoshka_dims matryoshka_dimensions truncate_dim""",
    "generation of text": """
        max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
        top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
        encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
        forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
        begin_suppress_tokens prefix""",
}
_HARMLESS = frozenset(key for keys in _HARMLESS_FOR.values() for key in keys.split())


def is_positive(value: object) -> bool:
    """Whether a JSON value is a number above 0 that float32 can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e38


class HFConfig:
    """A Hugging Face config.json, read strictly: each key is read here, or is known to be harmless.

    Args:
        values: the settings.
        problems: receives what is wrong with them.
    """

    def __init__(self, values: Mapping[str, Any], problems: Problems) -> None:
        self.values = values
        self.problems = problems
        # False if a size could not be read. Then the shapes of tensors cannot be compared.
        self.sizes_known: bool = True
        self._known: set[str] = set()

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer setting in 0..MAX_INTEGER."""
        self._known.add(key)
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
            wanted = f"an integer in 0..{MAX_INTEGER}"
            self.problems.append(f"config.json: {key!r} must be {wanted}, got {shown(value)}")
            self.sizes_known = False
            return 1
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        self._known.add(key)
        value = self.values.get(key, default)
        if not is_positive(value):
            self.problems.append(f"config.json: {key!r} must be a number > 0, got {shown(value)}")
            return 1.0
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A true or false setting."""
        self._known.add(key)
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.problems.append(f"config.json: {key!r} must be true or false, got {shown(value)}")
        return bool(value)

    def activation(self, key: str) -> Activation:
        """An activation by its transformers name."""
        self._known.add(key)
        value = self.values.get(key, "gelu")
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            self.problems.append(f"config.json: unknown activation {shown(value)} in {key!r}")
            return "gelu"
        return _ACTIVATIONS[value]

    def require(self, key: str, *allowed: Any) -> None:
        """Report a key whose value would change the mathematics."""
        self._known.add(key)
        if key in self.values and self.values[key] is not None and self.values[key] not in allowed:
            self.problems.append(f"config.json: {key!r} = {shown(self.values[key])} is not implemented")

    def implementation(self, config_class: str) -> None:
        """Report published code (auto_map) whose settings have another class."""
        code = self.optional("auto_map")
        named = code.get("AutoConfig") if isinstance(code, Mapping) else None
        if code and (not isinstance(named, str) or named.rpartition(".")[2] != config_class):
            self.problems.append(f"config.json: 'auto_map' = {shown(code)} is not the code of {config_class}")

    def optional(self, key: str) -> Any:
        """A setting of any type, or None."""
        self._known.add(key)
        return self.values.get(key)

    def finish(self) -> None:
        """Report the keys that are not understood."""
        # True would need code, which `auto_map` would name.
        self.require("trust_remote_code", False)
        for key in sorted(set(self.values) - self._known - _HARMLESS):
            # Keys with a leading underscore are private to transformers. An empty value has no effect.
            if not key.startswith("_") and self.values[key] not in (None, [], {}):
                self.problems.unknown("config.json", key, self.values[key])
