"""Tiny random backbones with real tokenizers, in the layout a Hugging Face base model has on disk.

`make_checkpoints.py` starts each checkpoint from one of these. Nothing here is trained except the vocabulary.
"""

from __future__ import annotations

import json
import math
import string
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

Family = Literal["bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "lfm2", "qwen3"]

# The longest text any backbone here accepts, special tokens included.
MAX_TOKENS = 128

VOCABULARY_SIZE = 520

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODERNBERT_SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Fairseq's order, which RoBERTa and XLM-R keep; <mask> comes last.
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
# No mask token, and LFM2's end-of-text token is <|im_end|>.
LFM2_SPECIALS = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_end|>"]
QWEN3_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# How each splits text before the merges; "{digits}" is what of a number stays together.
DECODER_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

VOCABULARY_TEXT = [
    "Late interaction keeps one vector for each token of the query and of the document.",
    "The score of a document is the sum, over the query tokens, of the largest similarity.",
    "A search engine first finds candidates, and then it ranks the candidates by their score.",
    "Which planet is known as the red planet? Mars, for its reddish appearance, is the red planet.",
    "Water boils at one hundred degrees; on a high mountain it boils earlier.",
    "How do I remove a file from the index? Use the command remove with the name of the file.",
    "The quick brown fox jumps over the lazy dog while the other foxes are sleeping.",
    "Die Suche nach Büchern über Flüsse und Straßen in großen Städten ist schön.",
    "Der Zug fährt früh nach München, und die Gäste möchten ein Stück Käse essen.",
    "Wo liegt die Universität? Sie liegt an der Straße hinter der Brücke über den Fluss.",
    'A list (of words), such as "index" , "vector" : or - at the end ; a row of marks ... !',
    "Die Ärzte prüfen täglich, ob die Übungen den Menschen helfen.",
    "北京是中国的首都。长江是中国最长的河流。",
    "今天的天气很好,我们去公园看书。你喜欢喝茶吗?",
    "人工智能可以帮助人们搜索文档和回答问题。",
]


def seed_of(name: str) -> int:
    """A seed that depends on `name` alone."""
    return zlib.crc32(name.encode())


def randomise(module: torch.nn.Module, name: str) -> None:
    """Draws every parameter of `module` anew, from a generator seeded by `name`.

    Biases and norms too: a default initialisation leaves zeros and ones, which hide swapped tensors.
    """
    rng = np.random.default_rng(seed_of(name))
    for key, parameter in sorted(module.named_parameters()):
        values = 0.2 * rng.standard_normal(tuple(parameter.shape))
        if "norm" in key.lower() and key.endswith("weight"):
            values += 1.0
        parameter.data = torch.from_numpy(values).to(parameter.dtype)


def common_pieces(words: Iterable[str], mark: str) -> dict[str, int]:
    """Every piece of `words` with its count, single characters first, then by characters saved.

    The trainers of `tokenizers` break ties by hash order here, so two runs would differ.

    Args:
        words: the training text, split.
        mark: put before a piece that does not start its word.
    """
    counts: Counter[str] = Counter(string.punctuation + string.digits + string.ascii_lowercase)
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                counts[(mark if start else "") + word[start:end]] += 1

    def rank(piece: str) -> tuple[bool, int, str]:
        size = len(piece.removeprefix(mark))
        return size > 1, -counts[piece] * (size - 1), piece

    return {piece: counts[piece] for piece in sorted(counts, key=rank)}


def train_bert_tokenizer() -> Tokenizer:
    """An uncased WordPiece tokenizer with [unused0] and [unused1] as plain entries after [PAD]."""
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    text = normalizer.normalize_str(" ".join(VOCABULARY_TEXT))
    pieces = common_pieces((word for word, _ in pre_tokenizer.pre_tokenize_str(text)), "##")
    entries = ["[PAD]", "[unused0]", "[unused1]", *BERT_SPECIALS[1:], *list(pieces)[: VOCABULARY_SIZE - 7]]

    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(BERT_SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def train_byte_level_tokenizer(specials: list[str], mask_token: str) -> Tokenizer:
    """A cased byte-level BPE tokenizer; like the real ones, its mask token swallows spaces on its left."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*specials, mask_token],
    )
    tokenizer.train_from_iterator(VOCABULARY_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(mask_token, lstrip=True, special=True)])
    return tokenizer


def train_modernbert_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with NFC and BERT's special tokens, as ModernBERT has."""
    tokenizer = train_byte_level_tokenizer(MODERNBERT_SPECIALS[:-1], "[MASK]")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def train_roberta_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with RoBERTa's special tokens."""
    tokenizer = train_byte_level_tokenizer(ROBERTA_SPECIALS, "<mask>")
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def train_decoder_tokenizer(family: Family) -> Tokenizer:
    """A byte-level BPE tokenizer as decoders have; LFM2's puts one token in front, Qwen3's (with NFC) none."""
    specials, digits = LFM2_SPECIALS, r"\p{N}{1,3}"
    tokenizer = Tokenizer(models.BPE())
    if family == "qwen3":
        specials, digits = QWEN3_SPECIALS, r"\p{N}"
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(DECODER_WORDS.format(digits=digits)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials,
    )
    tokenizer.train_from_iterator(VOCABULARY_TEXT, trainer)
    if family == "lfm2":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|startoftext|> $A",
            pair="<|startoftext|> $A <|startoftext|> $B:1",
            special_tokens=[("<|startoftext|>", 1)],
        )
    return tokenizer


def train_xlm_roberta_tokenizer() -> Tokenizer:
    """A Unigram tokenizer with XLM-R's ids, without SentencePiece's compiled normalizer (300 kB)."""
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    words = (word for word, _ in pre_tokenizer.pre_tokenize_str(" ".join(VOCABULARY_TEXT)))
    pieces = common_pieces(words, "")
    total = sum(pieces.values())
    vocabulary = [(piece, 0.0) for piece in ROBERTA_SPECIALS]
    for piece in list(pieces)[: VOCABULARY_SIZE - 5]:
        vocabulary.append((piece, round(math.log(pieces[piece] / total), 4)))
    vocabulary.append(("<mask>", 0.0))

    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*ROBERTA_SPECIALS, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def train_tokenizer(family: Family) -> Tokenizer:
    """The tokenizer of a family."""
    match family:
        case "bert" | "distilbert":
            return train_bert_tokenizer()
        case "modernbert":
            return train_modernbert_tokenizer()
        case "roberta":
            return train_roberta_tokenizer()
        case "xlm-roberta":
            return train_xlm_roberta_tokenizer()
        case "lfm2" | "qwen3":
            return train_decoder_tokenizer(family)


def tokenizer_config(family: Family) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    if family in ("roberta", "xlm-roberta"):
        names = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")
        names |= dict(unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")
    elif family == "lfm2":
        names = dict(bos_token="<|startoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>")
    elif family == "qwen3":
        names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    else:
        names = dict(unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
        names |= dict(pad_token="[PAD]", mask_token="[MASK]")
    classes: dict[Family, str] = {
        "bert": "BertTokenizer",
        "distilbert": "DistilBertTokenizer",
        "roberta": "RobertaTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
        "modernbert": "PreTrainedTokenizerFast",
        "lfm2": "PreTrainedTokenizerFast",
        "qwen3": "Qwen2Tokenizer",
    }
    config: dict[str, Any] = {"model_max_length": MAX_TOKENS, "tokenizer_class": classes[family], **names}
    if family in ("bert", "distilbert"):
        config |= {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    return config


def model_config(family: Family, vocab_size: int, *, local_attention: int = 8) -> dict[str, Any]:
    """The content of config.json: 32 wide, 4 heads, 2 layers (4 in ModernBERT and LFM2)."""
    if family == "distilbert":
        return {
            "model_type": "distilbert",
            "architectures": ["DistilBertModel"],
            "vocab_size": vocab_size,
            "dim": 32,
            "n_heads": 4,
            "n_layers": 2,
            "hidden_dim": 64,
            "max_position_embeddings": MAX_TOKENS,
            "activation": "gelu",
            "pad_token_id": 0,
        }
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "max_position_embeddings": MAX_TOKENS,
    }
    if family == "bert":
        config |= {"architectures": ["BertModel"], "pad_token_id": 0, "layer_norm_eps": 1e-12}
    elif family == "lfm2":
        config |= {
            "architectures": ["Lfm2Model"],
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "conv"],
            "num_key_value_heads": 2,
            # Adjusted by the model: two thirds, rounded up to a multiple of 16, so 48.
            "block_ff_dim": 64,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 16,
            "conv_L_cache": 3,
            "conv_bias": False,
            "norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 3,
        }
        del config["intermediate_size"]
    elif family == "qwen3":
        config |= {
            "architectures": ["Qwen3Model"],
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "eos_token_id": 2,
        }
    elif family == "modernbert":
        config |= {
            "architectures": ["ModernBertModel"],
            "num_hidden_layers": 4,
            "global_attn_every_n_layers": 3,
            "local_attention": local_attention,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            **{f"{role}_token_id": 1 for role in ("bos", "cls")},
            **{f"{role}_token_id": 2 for role in ("eos", "sep")},
            "pad_token_id": 3,
        }
    else:
        architecture = "RobertaModel" if family == "roberta" else "XLMRobertaModel"
        config |= {
            "architectures": [architecture],
            # Positions start at pad_token_id + 1, so the table has two more rows than there are tokens.
            "max_position_embeddings": MAX_TOKENS + 2,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        }
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` as an indented JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_backbone(
    path: Path, family: Family, *, extra_tokens: tuple[str, ...] = (), local_attention: int = 8
) -> Path:
    """Writes config, tokenizer and freshly initialised weights of a base model into `path`.

    Args:
        path: a directory, made if absent.
        family: which backbone.
        extra_tokens: registered as special tokens behind the vocabulary, and counted in `vocab_size`.
        local_attention: ModernBERT's window, in tokens, both sides together.

    Returns:
        `path`.
    """
    from transformers import AutoConfig, AutoModel

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(family)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in extra_tokens]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    if family in ("bert", "distilbert"):
        ids = tokenizer.get_vocab(with_added_tokens=False)
        lines = "\n".join(sorted(ids, key=lambda token: ids[token]))
        (path / "vocab.txt").write_text(lines + "\n", encoding="utf-8")
    write_json(path / "tokenizer_config.json", tokenizer_config(family))
    write_json(
        path / "config.json",
        model_config(family, tokenizer.get_vocab_size(), local_attention=local_attention),
    )
    AutoModel.from_config(AutoConfig.from_pretrained(path)).save_pretrained(path)
    return path
