"""Long texts, tokenised in pieces: the ids and offsets are those of the whole text."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from mlx_colbert.convert import convert
from mlx_colbert.errors import InputError
from mlx_colbert.model import long_texts
from mlx_colbert.model import tokenizer as tokenizer_module
from mlx_colbert.model.folder import read_config
from mlx_colbert.model.long_texts import Cutter
from mlx_colbert.model.tokenizer import Tokenizer

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"
NAMES = ["pylate-bert", "pylate-roberta", "pylate-modernbert", "pylate-xlmr", "pylate-lfm2", "native-qwen3"]

# What a cut could break: runs, white space of all kinds, marks that combine, signs that join, special tokens.
PARTS = [
    *(
        "the ",
        "cat",
        "a.b",
        "x+y/z",
        "3.14",
        "b:c;d!",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2003",
        "\u3000",
        "\x00",
        "\x85",
        "\u200d",
    ),
    *(
        "'s",
        "'S ",
        "don't",
        ".",
        ",",
        "...",
        "!?",
        "\u3002",
        "\uff0c",
        "\u2581",
        "\u0120",
        "-",
        "_",
        "1",
        "23456",
    ),
    *(
        "\u4e2d",
        "\u6587\u5b57",
        "\u304c",
        "\u304b\u3099",
        "\uff76\uff9e",
        "\ud55c",
        "\u1112\u1161\u11ab",
        "\u0439",
    ),
    *(
        "\u0301",
        "e\u0301",
        "\u0323\u0301",
        "\u0130",
        "\u03a3",
        "\ufb01",
        "\u2460",
        "\u0600",
        "\u0915\u094d\u0937",
    ),
    *("\U0001f468\u200d\U0001f469", "\U0001f1e9\U0001f1ea", "[MASK]", "[CLS]", "[Q]", "[Q] ", "<s>", "</s>"),
    *(
        "<|im_end|>",
        "<mask>",
        "A",
        "aB",
        "AAAA",
        "\u00df",
        "\u0130stanbul",
        "\u05d0",
        "\u0645\u0631",
        "\u0664",
    ),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: convert(CHECKPOINTS / name, tmp_path_factory.mktemp("long") / name) for name in NAMES}


def load(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "tokenizer.json", read_config(folder).colbert)


def library(folder: Path) -> FastTokenizer:
    return FastTokenizer.from_file(str(folder / "tokenizer.json"))


def hostile(rng: random.Random) -> str:
    kinds = rng.sample(PARTS, rng.choice([2, 5, len(PARTS)]))
    text = "".join(rng.choice(kinds) * rng.choice([1, 1, 1, 40]) for _ in range(rng.choice([5, 60])))
    return text + rng.choice(["", "x", " ", "\u0301" * 50])


def check_same_ids(tokenizer: Tokenizer, whole: FastTokenizer, text: str, prefix: str) -> None:
    expected = whole.encode(prefix + text)
    ids, offsets = tokenizer._read_long(text, prefix, None)
    assert ids.tolist() == expected.ids, repr(text)
    assert offsets == expected.offsets, repr(text)
    some, _ = tokenizer._read_long(text, prefix, 8)
    n = min(len(some), 8) - tokenizer._n_closing
    assert some[:n].tolist() == expected.ids[:n]
    assert (len(some) > 8) == (len(expected.ids) > 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_pieces_have_the_ids_and_offsets_of_the_whole_text(folders, name, monkeypatch):
    monkeypatch.setattr(long_texts, "PIECE", 3)
    tokenizer, whole = load(folders[name]), library(folders[name])
    rng = random.Random(name)
    cuts = 0
    for _ in range(400):
        text = hostile(rng)
        check_same_ids(tokenizer, whole, text, rng.choice(["", "[Q] ", "search: "]))
        cuts += len(list(tokenizer._cutter.pieces(text))) - 1
    assert cuts > 400


NORMALIZERS = {
    "NFKC": normalizers.NFKC(),
    "NFC": normalizers.NFC(),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    "spaces": normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
    "strip": normalizers.Sequence([normalizers.Strip(), normalizers.Nmt()]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NORMALIZERS)
@pytest.mark.parametrize("name", ["pylate-roberta", "pylate-xlmr", "pylate-lfm2"])
def test_pieces_are_exact_behind_other_normalizers(folders, tmp_path, name, kind, monkeypatch):
    monkeypatch.setattr(long_texts, "PIECE", 3)
    changed = library(folders[name])
    changed.normalizer = NORMALIZERS[kind]
    changed.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", read_config(folders[name]).colbert)
    rng = random.Random(kind)
    for _ in range(150):
        check_same_ids(tokenizer, changed, hostile(rng), "")
    assert tokenizer._cutter._gap is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pylate-roberta", "pylate-xlmr"])
def test_pieces_are_exact_behind_sentencepieces_own_normalizer(folders, tmp_path, name, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece")
    protobuf = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    monkeypatch.setattr(long_texts, "PIECE", 3)
    model = protobuf.ModelProto()
    # The one of XLM-R.
    model.ParseFromString(
        sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    )
    changed = library(folders[name])
    changed.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    changed.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", read_config(folders[name]).colbert)
    rng = random.Random(name)
    for _ in range(300):
        check_same_ids(tokenizer, changed, hostile(rng), "")
    assert tokenizer._cutter._gap is not None


def gemma(folders, tmp_path, *, joined: bool = False) -> tuple[Tokenizer, FastTokenizer]:
    """A BPE that sees the whole text at once, as Gemma's does."""
    signs = ["<unk>", "\u2581", *"abcdehotx .\n1"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("a", "t"), ("c", "at"), ("\u2581", "\u2581")]
    merges += [("e", "\u2581")] if joined else []
    vocabulary = {entry: i for i, entry in enumerate([*signs, *(a + b for a, b in merges)])}
    made = FastTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.save(str(tmp_path / "tokenizer.json"))
    config = read_config(folders["pylate-bert"]).colbert
    return Tokenizer(tmp_path / "tokenizer.json", config), made


def test_pieces_are_exact_where_nothing_splits_the_text(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(long_texts, "PIECE", 3)
    tokenizer, whole = gemma(folders, tmp_path)
    rng = random.Random(0)
    for _ in range(300):
        check_same_ids(tokenizer, whole, hostile(rng), "")
    assert tokenizer._cutter._gap is not None


def test_text_is_not_cut_where_the_vocabulary_joins_words(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(long_texts, "PIECE", 3)
    tokenizer, whole = gemma(folders, tmp_path, joined=True)
    check_same_ids(tokenizer, whole, "the the the the the", "")
    assert tokenizer._cutter._gap is None


@pytest.mark.parametrize(
    "change",
    [
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "a b|."},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": ""}},
    ],
)
def test_unknown_step_of_a_tokenizer_allows_no_cut(folders, change):
    settings = json.loads(library(folders["pylate-bert"]).to_str())
    assert Cutter(FastTokenizer.from_str(json.dumps({**settings, **change})))._gap is None


@pytest.mark.parametrize("content", ["new york", "ampersand", "end"])
def test_added_token_that_could_reach_over_a_cut_allows_none(folders, content):
    changed = library(folders["pylate-bert"])
    changed.add_tokens([content])
    assert Cutter(changed)._gap is None


# Several pieces of `long_texts.PIECE` characters.
N = 120_000
LONG = {
    "one character": "a" * N,
    "white space": " " * N,
    "newlines": "\n" * N,
    "combining marks": "e" + "\u0301" * N + " the cat" * 10,
    "Han": "\u4e2d\u6587" * (N // 2),
    "one word": "".join(random.Random(0).choices("abcdefgh", k=N)),
    "words": "the cat sat. " * (N // 13),
    "flags": "\U0001f1e9\U0001f1ea" * (N // 2) + " end",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("name", ["pylate-bert", "pylate-modernbert", "pylate-xlmr"])
def test_long_hostile_text_has_the_ids_of_the_uncut_one(folders, name, kind):
    tokenizer, whole = load(folders[name]), library(folders[name])
    text = LONG[kind]
    expected = np.array(whole.encode(tokenizer._config.document_prefix + text).ids)
    if len(expected) > tokenizer._config.document_length:
        end = tokenizer._n_closing
        expected = np.r_[expected[: tokenizer._config.document_length - end], expected[len(expected) - end :]]
    tokens = tokenizer.documents([text])
    assert tokens.rows[0].ids.tolist() == expected.tolist()


def test_windows_of_a_long_text_are_those_of_the_uncut_one(folders, monkeypatch):
    tokenizer, text = load(folders["pylate-bert"]), "the cat sat on it. " * 4000
    in_pieces = tokenizer.documents([text], on_overflow="chunk")
    surface = tokenizer.surface(text, in_pieces, "document", "chunk")
    monkeypatch.setattr(tokenizer_module, "PIECE", 10**9)
    monkeypatch.setattr(long_texts, "PIECE", 10**9)
    uncut = tokenizer.documents([text], on_overflow="chunk")
    assert [row.ids.tolist() for row in in_pieces.rows] == [row.ids.tolist() for row in uncut.rows]
    assert surface == tokenizer.surface(text, uncut, "document", "chunk")


def test_text_that_can_only_be_tokenised_whole_is_refused_beyond_a_length(folders, monkeypatch):
    monkeypatch.setattr(long_texts, "MAX_WHOLE", 100_000)
    tokenizer = load(folders["pylate-xlmr"])
    with pytest.raises(InputError, match=r"^text 1: has more than 100,000 characters without a space"):
        tokenizer.documents(["a", "\u4e2d" * 100_001])
    assert tokenizer.documents(["a", "\u4e2d" * 100_000]).n_truncated == 1


@pytest.mark.slow
@pytest.mark.parametrize("text", [" ", "\n", ".", "/+", ". \n", "\u3002"])
def test_run_of_marks_of_any_length_is_cut_by_a_bert_tokenizer(folders, text):
    tokenizer, whole = load(folders["pylate-bert"]), library(folders["pylate-bert"])
    expected = whole.encode(tokenizer._config.document_prefix + text * 100).ids
    long = tokenizer.documents([text * (2 << 20)]).rows[0].ids.tolist()
    length = min(len(expected), tokenizer._config.document_length) - 1
    assert long[:length] == expected[:length]


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("..", normalized=False),
        AddedToken(". .", normalized=False),
        AddedToken(".x", single_word=True, normalized=False),
    ],
)
def test_added_token_with_marks_in_a_row_allows_no_cut_between_marks(folders, token):
    changed = library(folders["pylate-bert"])
    changed.add_tokens([token])
    assert Cutter(changed)._gap is None or Cutter(changed)._gap.search("..") is None


@pytest.mark.parametrize("content", [".", "/", "<x>"])
@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_added_token_that_takes_white_space_is_exact_between_marks(
    folders, tmp_path, content, side, monkeypatch
):
    monkeypatch.setattr(long_texts, "PIECE", 3)
    changed = library(folders["pylate-bert"])
    changed.add_tokens([AddedToken(content, normalized=False, **{side: True})])
    changed.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", read_config(folders["pylate-bert"]).colbert)
    rng = random.Random(content)
    for _ in range(150):
        text = "".join(rng.choice([content, " ", "  ", ".", "\n", "the", "/"]) for _ in range(60))
        ids, _ = tokenizer._read_long(text, "", None)
        assert ids.tolist() == changed.encode(text).ids


def test_few_tokens_of_a_long_text_take_little_memory(folders):
    tokenizer = load(folders["pylate-bert"])
    tokenizer.documents(["the cat " * 10_000])
    text = "the cat sat. " * 1_200_000
    tracemalloc.start()
    tokenizer.documents([text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
