"""Cuts long texts into pieces. The tokens are exactly those of the whole text, and need little memory.

The tokenizer library needs 250 bytes for each character of a text, also if only a few tokens are wanted.

A text may be cut before a *mark* (a space, a newline, or for many tokenizers a full stop or a similar sign)
that follows a *letter* (`_LETTERS`). A is the part before the mark. B is the part from the mark on. The
tokens of the text are then the tokens of A, followed by tokens that depend on B alone, because no step of a
tokenizer joins the two:

1. Added tokens are found first. None of them ends with a letter or contains a letter before a mark
   (`_keeps_apart`). So no match goes from A into B, and no match at the end of A includes the mark
   (`rstrip`).
2. The normalizer is a chain of known kinds (`_NORMALIZERS`). Unicode's normal forms, case and accents change
   one character and the combining characters behind it; our marks do not combine. A replacement changes
   white space only, so it is in B. Text that is added or stripped is neither at the end of A nor at the
   beginning of B. `_keeps_apart` tests that each letter becomes one or more letters.
3. The first pre-tokenizer always splits between a letter and a mark (`_marks`): its pattern has no
   alternative with a letter before a mark, does not look back, and looks ahead from white space only. The
   next pre-tokenizers work within the splits. If nothing splits (Gemma's BPE), no entry of the vocabulary has
   a letter before a mark, so no merge can join them.
4. The model works on each split alone.

So the tokens of B are the tokens that follow those of "a" in "aB".

A BERT tokenizer may also be cut between two marks (`_isolates_marks`). It gives white space no tokens, and
makes each other mark a token of its own, so all steps above hold: no added token has two marks in a row, and
white space that an added token takes in addition (`lstrip`, `rstrip`) has no tokens anyway.

A text without a place to cut is tokenised whole, up to `MAX_WHOLE` characters. A longer one is refused: the
model may join any two characters of it, so its first token can depend on its last character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeAlias

from mlx_colbert.errors import InputError
from mlx_colbert.model.tokenizer_file import flat_steps, state_of

__all__ = ["MAX_WHOLE", "PIECE", "Cutter"]

# A tokenizer of the library. Only tokenizer.py imports the library.
_Library: TypeAlias = Any

# Characters of a piece. A shorter text is not cut.
PIECE = 1 << 14
# Most characters that are tokenised at once. They need less than a gigabyte.
MAX_WHOLE = 1 << 20

# ASCII, Greek, Cyrillic, Hebrew, Arabic, Devanagari, kana, Han and Hangul. Each Unicode normal form turns
# these letters and digits into letters and digits only.
_LETTERS = (
    "0-9A-Za-z\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0410-\u044f\u05d0-\u05ea\u0621-\u063a\u0641-\u064a"
    "\u0904-\u0939\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
_ALL_LETTERS = [
    chr(code) for first, last in re.findall("(.)-(.)", _LETTERS) for code in range(ord(first), ord(last) + 1)
]
# Marks. The signs include the ideographic full stop. BERT splits at each Han character.
_SPACES, _SIGNS, _HAN = " \n", "\u3002.,;:!?+/", "\u4e00-\u9fa5"
_NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Prepend", "Strip"),
}
# Patterns of white space. A replacement of one of these by a space or by the sign of a space is allowed.
_REPLACED = ({"String": " "}, {"Regex": " {2,}"}, {"Regex": r"\s+"}, {"String": "\n"})
_SIGN = "\u2581"
# GPT-2's pattern is built into ByteLevel. These two are Llama 3's and Qwen 2's.
_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
}


class Cutter:
    """Cuts the texts of one tokenizer.

    Args:
        library: the tokenizer.
    """

    def __init__(self, library: _Library) -> None:
        self._library = library

    @cached_property
    def _gap(self) -> re.Pattern[str] | None:
        """Matches the mark behind a place to cut. It takes 40 ms to find out, and few texts are long."""
        marks = _usable_marks(self._library)
        before = _LETTERS + (marks if _isolates_marks(self._library, marks) else "")
        return re.compile(f"(?<=[{before}])[{marks}]") if marks else None

    def pieces(self, text: str) -> Iterator[str]:
        """The text in pieces of at least `PIECE` characters. The last piece may be shorter.

        Raises:
            InputError: if more than `MAX_WHOLE` characters have no place to cut.
        """
        start = 0
        while start < len(text):
            end = len(text)
            if end - start > PIECE and self._gap is not None:
                found = self._gap.search(text, start + PIECE, min(end, start + MAX_WHOLE))
                end = end if found is None else found.start()
            if end - start > MAX_WHOLE:
                raise InputError(
                    f"has more than {MAX_WHOLE:,} characters without a space between words, after character "
                    f"{start:,}. They can only be tokenised together. Split the text, or put spaces into it."
                )
            yield text[start:end]
            start = end


def _usable_marks(library: _Library) -> str:
    """The marks before which a text may be cut. "" if the tokenizer is not known to allow a cut."""
    normalizers = list(flat_steps(state_of(library.normalizer), "normalizers"))
    if not all(_is_local(step) for step in normalizers):
        return ""
    marks = _marks(library, normalizers)
    tokens = [token.content for token in library.get_added_tokens_decoder().values()]
    if not marks or not _keeps_apart(library, tokens, marks):
        return ""
    # The tokens that are added around a text must not depend on the text.
    whole, bare = library.encode("a"), library.encode("a", add_special_tokens=False)
    inner = [i for i, special in zip(whole.ids, whole.special_tokens_mask, strict=True) if not special]
    return marks if inner == bare.ids and len(bare.ids) else ""


def _isolates_marks(library: _Library, marks: str) -> bool:
    """Whether the tokenizer is BERT's, which never joins two marks in a row."""
    steps = [state_of(library.normalizer), state_of(library.pre_tokenizer)]
    if [step and step["type"] for step in steps] != ["BertNormalizer", "BertPreTokenizer"]:
        return False
    # A token of its own word may start with a mark; then the character before the cut decides.
    added = library.get_added_tokens_decoder().values()
    texts = [
        text for token in added for text in (token.content, library.normalizer.normalize_str(token.content))
    ]
    joined = re.compile(f"[{marks}][{marks}]") if marks else None
    return (
        joined is not None
        and not any(token.single_word for token in added)
        and not any(map(joined.search, texts))
    )


def _is_local(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return step["pattern"] in _REPLACED and step["content"] in (" ", _SIGN)
    return step["type"] in _NORMALIZERS


def _marks(library: _Library, normalizers: list[dict[str, Any]]) -> str:
    """The marks that the first pre-tokenizer always separates from a letter before them."""
    steps = list(flat_steps(state_of(library.pre_tokenizer), "pretokenizers"))
    first = steps[0] if steps else {"type": "none"}
    if any(step.get("content") == _SIGN for step in normalizers):
        match first:
            case {"type": "Metaspace", "split": True, "replacement": "\u2581"}:
                return " "
            case {"type": "none"} | {"type": "Split", "pattern": {"String": " "}}:
                return " " if _never_merges(library) else ""
        return ""
    # It puts spaces around a Han character, which could join a space of the text behind it.
    is_bert = any(step["type"] == "BertNormalizer" for step in normalizers)
    match first:
        case {"type": "BertPreTokenizer"} if any(step.get("handle_chinese_chars") for step in normalizers):
            return _SPACES + _SIGNS + _HAN
        case {"type": "BertPreTokenizer" | "Whitespace"}:
            return _SPACES + _SIGNS
        case {"type": "WhitespaceSplit"}:
            return _SPACES
        case {"type": "ByteLevel", "use_regex": True} if not is_bert:
            return _SPACES + _SIGNS
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} if (
            pattern in _PATTERNS and not is_bert
        ):
            return _SPACES + _SIGNS
        case {"type": "Metaspace", "split": True} if not is_bert:
            return " "
    return ""


def _never_merges(library: _Library) -> bool:
    """Whether a BPE without a pre-tokenizer never joins a letter and the sign of a space behind it."""
    model, vocabulary = library.model, library.get_vocab(with_added_tokens=False)
    if type(model).__name__ != "BPE" or not {"a", _SIGN} <= set(vocabulary):
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    inside = re.compile(rf"\w{_SIGN}")
    return not any(inside.search(entry) for entry in vocabulary)


def _keeps_apart(library: _Library, added: list[str], marks: str) -> bool:
    """Whether added tokens and the normalizer never join a letter and a mark behind it."""
    normalize = library.normalizer.normalize_str if library.normalizer else str
    for token in [*added, *map(normalize, added)]:
        if token[-1:].isalnum() or re.search(rf"\w[{marks}{_SIGN}]", token):
            return False
    for mark in marks.replace("-", "") if library.pre_tokenizer else "":
        first = library.pre_tokenizer.pre_tokenize_str(normalize(f"a{mark}a"))[0][1]
        if normalize(f"a{mark}a") != f"a{_SIGN}a" and first[1] != 1:
            return False
    words = normalize(" ".join(["a", *_ALL_LETTERS])).replace(_SIGN, " ").split()
    return len(words) > len(_ALL_LETTERS) and all(word[-1].isalnum() for word in words)
