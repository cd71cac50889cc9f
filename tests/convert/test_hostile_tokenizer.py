"""Tokenizer files whose numbers the tokenizers library would trust."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import CHECKPOINTS, edit, refusal

from mlx_colbert import ColBERT
from mlx_colbert.convert import convert
from mlx_colbert.errors import CheckpointError, UnsafeCheckpointError
from mlx_colbert.model.folder import sha256_of
from mlx_colbert.model.tokenizer_file import check_charsmap


def charsmap(size: int, units: list[int], texts: bytes) -> bytes:
    return size.to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in units) + texts


def precompiled(content: bytes) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


HUGE = precompiled(charsmap(0xFFFF_FFFC, [0] * 16, b"a\0"))
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
MAPS = [
    (charsmap(0xFFFF_FFFC, [0] * 16, b"a\0"), "its trie has 4294967292 bytes"),
    (charsmap(0, [0] * 256, b"a\0"), "its trie has 0 bytes"),
    (charsmap(1023, [0] * 256, b"a\0"), "its trie has 1023 bytes"),
    (charsmap(1024, [0] * 256, b""), "its trie has 1024 bytes"),
    (charsmap(1024, [0] * 256, b"abc"), "its trie has 1024 bytes"),
    (charsmap(1024, [0x7FFF_FC00] + [0] * 255, b"a\0"), "leads out of its trie"),
    (charsmap(1024, [1 << 10 | 1 << 8, 1 << 31 | 1] + [0] * 254, b"a\0"), "is not a text of it"),
    (charsmap(1024, [0] * 256, b"\xff\0"), "not UTF-8"),
    (charsmap(1024, [0] * 256, b"a" * 1000 + b"\0"), "has a text of 1000 bytes"),
    (b"", "its trie has 0 bytes"),
]


@pytest.mark.parametrize(("content", "problem"), MAPS)
def test_character_map_that_leads_out_of_itself_is_refused(content, problem):
    with pytest.raises(UnsafeCheckpointError, match=problem):
        check_charsmap(Path("tokenizer.json"), content)


def real_charsmap() -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    protobuf = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    model = protobuf.ModelProto()
    model.ParseFromString(
        sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    )
    content: bytes = model.normalizer_spec.precompiled_charsmap
    return content


def test_sentencepieces_own_character_map_is_accepted():
    check_charsmap(Path("tokenizer.json"), real_charsmap())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(at=st.integers(0, 240_006), byte=st.integers(0, 255))
def test_character_map_that_is_accepted_never_makes_the_library_fail(at, byte):
    from tokenizers.normalizers import Precompiled

    content = bytearray(real_charsmap())
    content[at % len(content)] = byte
    try:
        check_charsmap(Path("tokenizer.json"), bytes(content))
    except UnsafeCheckpointError:
        return
    Precompiled(bytes(content)).normalize_str("Ａｂc １２３ ﷺ\u00ad é e\u0301 ㍿\t中文 \U0001f600")


@pytest.mark.parametrize(
    "normalizer",
    [
        HUGE,
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, HUGE]},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [HUGE]}]},
        # Forms without a type, which the library understands too.
        {"precompiled_charsmap": HUGE["precompiled_charsmap"]},
        [HUGE["precompiled_charsmap"]],
        ["Precompiled", HUGE["precompiled_charsmap"]],
        {"type": "Precompiled", "precompiled_charsmap": "é"},
        {"type": "Precompiled", "precompiled_charsmap": 5},
    ],
)
def test_hostile_character_map_never_reaches_the_library(copy, normalizer):
    source = copy("pylate-modernbert")
    edit(source / "tokenizer.json", normalizer=normalizer)
    assert "Refused" in refusal(source, UnsafeCheckpointError)


def test_part_that_is_there_twice_is_refused(copy):
    source = copy("pylate-modernbert")
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(f'{{"normalizer": {json.dumps(HUGE)}, {text.lstrip()[1:]}')
    assert "the same key twice" in refusal(source)


def test_sentencepiece_model_with_a_hostile_character_map_is_refused(copy):
    source = copy("pylate-xlmr")
    (source / "tokenizer.json").unlink()
    content = charsmap(0xFFFF_FFFC, [0] * 16, b"a\0")
    settings = b"\x12" + bytes([len(content)]) + content
    (source / "sentencepiece.bpe.model").write_bytes(b"\x1a" + bytes([len(settings)]) + settings)
    assert "its trie has 4294967292 bytes" in refusal(source, UnsafeCheckpointError)


def template(single: list[dict], ids: int = 1) -> dict:
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1] * ids, "tokens": ["[CLS]"] * ids}},
    }


SPECIAL, TEXT = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
PARTS = [
    ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 40}}, "256 times longer"),
    ({"normalizer": {**REPLACE, "content": "a" * 8_000_000}}, "256 times longer"),
    ({"normalizer": {**REPLACE, "pattern": {"Regex": "x"}, "content": "a" * 300}}, "256 times longer"),
    ({"normalizer": {**REPLACE, "pattern": {"Regex": "x*"}}}, "replaces the empty text"),
    ({"normalizer": {**REPLACE, "pattern": {"String": ""}}}, "replaces the empty text"),
    ({"normalizer": {"type": "Prepend", "prepend": "a" * 8_000_000}}, "256 times longer"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 70}}, "more than 64 steps"),
    ({"normalizer": 5}, "has no type"),
    ({"normalizer": {**REPLACE, "content": 5}}, "a part of it has the wrong type"),
    ({"post_processor": template([SPECIAL] * 200_000 + [TEXT])}, "more than 64 tokens"),
    ({"post_processor": template([SPECIAL, TEXT], ids=200_000)}, "more than 64 tokens"),
    ({"post_processor": template([TEXT] * 1000)}, "once into its template"),
    ({"post_processor": template([SPECIAL])}, "once into its template"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "problem"), PARTS)
def test_steps_that_swell_a_text_are_refused(copy, parts, problem):
    source = copy("pylate-modernbert")
    edit(source / "tokenizer.json", **parts)
    assert problem in refusal(source)


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("pylate-modernbert", {"continuing_subword_prefix": "#" * 100}, "more than 64 characters"),
        ("pylate-modernbert", {"continuing_subword_prefix": "##"}, "does not begin with '##'"),
        ("pylate-modernbert", {"merges": [["qqq", "zzz"]]}, "Token `qqq` out of vocabulary"),
        ("pylate-roberta", {"merges": [["qqq", "zzz"]]}, "Token `qqq` out of vocabulary"),
        ("pylate-xlmr", {"vocab": [["<s>", 0.0], ["a" * 10**6, 0.0]]}, "has 1000000 characters"),
        ("pylate-bert", {"vocab": {"[UNK]": 0, "a" * 10**6: 1}}, "has 1000000 characters"),
        ("pylate-bert", {"max_input_chars_per_word": 2**63}, "more than 1000"),
    ],
)
def test_model_of_a_tokenizer_with_impossible_settings_is_refused(copy, name, changes, problem):
    source = copy(name)
    path = source / "tokenizer.json"
    edit(path, model={**json.loads(path.read_text())["model"], **changes})
    assert problem in refusal(source)


@pytest.mark.parametrize("key", ["strategy", "pad_to_multiple_of"])
def test_padding_of_a_tokenizer_is_off_before_its_first_call(copy, tmp_path, key):
    source = copy("pylate-modernbert")
    path = source / "tokenizer.json"
    padding = json.loads(path.read_text())["padding"]
    huge = {"strategy": {"Fixed": 2**40}, "pad_to_multiple_of": 2**40}
    edit(path, padding={**padding, key: huge[key]})
    assert (
        convert(source, tmp_path / "model").joinpath("tokenizer.json").read_bytes()
        == convert(CHECKPOINTS / "pylate-modernbert", tmp_path / "original")
        .joinpath("tokenizer.json")
        .read_bytes()
    )


@pytest.mark.parametrize("number", [520, 2**31, 10**30])
def test_added_token_whose_id_in_the_file_is_beyond_the_table_is_refused(copy, number):
    source = copy("pylate-bert")
    path = source / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    added[-1]["id"] = number
    edit(path, added_tokens=added)
    assert refusal(source)


def test_added_token_of_the_settings_that_is_beyond_the_table_is_refused(copy):
    source = copy("pylate-bert")
    token = {"content": "[MASK]", "special": True}
    edit(source / "tokenizer_config.json", added_tokens_decoder={str(2**31): token})
    assert "has the id 2147483648, beyond the 520 rows" in refusal(source)


def test_token_of_unknown_words_outside_the_vocabulary_is_refused(tmp_path):
    folder = convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    path = folder / "tokenizer.json"
    edit(path, model={**json.loads(path.read_text())["model"], "unk_token": "nope"})
    edit(folder / "config.json", tokenizer_sha256=sha256_of(path))
    with pytest.raises(CheckpointError, match="the token of unknown words, 'nope', is not in the vocabulary"):
        ColBERT.load(folder, backend="numpy")


def test_settings_that_name_another_tokenizer_file_are_refused(copy):
    source = copy("pylate-bert")
    edit(source / "tokenizer_config.json", fast_tokenizer_files=["elsewhere/tokenizer.4.0.0.json"])
    assert "'fast_tokenizer_files' names other files" in refusal(source, UnsafeCheckpointError)


@pytest.mark.parametrize("parts", [{"normalizer": HUGE}, PARTS[0][0], PARTS[7][0]])
def test_hostile_tokenizer_of_a_converted_model_is_refused(tmp_path, parts):
    folder = convert(CHECKPOINTS / "pylate-modernbert", tmp_path / "model")
    edit(folder / "tokenizer.json", **parts)
    edit(folder / "config.json", tokenizer_sha256=sha256_of(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="Refused"):
        ColBERT.load(folder, backend="numpy")
