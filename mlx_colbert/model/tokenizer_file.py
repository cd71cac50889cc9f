"""Checks a tokenizer.json that a stranger may have written. The tokenizers library trusts the numbers in it.

A number in the file may be the size of memory to reserve (a character map of 8 GB), or a place in a table
that the library does not check. A few short steps may also make a text 2^40 times as long. `check_file` is
for the file before the library reads it; `check_steps` is for the steps as the library understands them.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mlx_colbert.errors import CheckpointError, UnsafeCheckpointError, said
from mlx_colbert.json_values import is_nested_deeply
from mlx_colbert.types import Array
from mlx_colbert.untrusted import shown

__all__ = ["MAX_TOKEN", "check_charsmap", "check_file", "check_steps", "flat_steps", "state_of"]

# A tokenizer of the library, or a part of one. Only tokenizer.py imports the library.
_Library: TypeAlias = Any

# Known tokenizers have at most 10 steps.
MAX_STEPS = 64
# How many times longer a text may become. XLM-R's character map makes 18 characters from one at most. With
# 250 bytes for each character, a piece of a long text then needs less than a gigabyte.
MAX_GROWTH = 256
# Characters of a token. Gemma's longest have some 30; runs of spaces of other tokenizers have 128.
MAX_TOKEN = 1000
# Characters of "##" and the like.
MAX_AFFIX = 64
# 100 and 200 are usual. The time for a word that the vocabulary lacks grows with the cube of its length.
MAX_WORD = 1000
_AFFIXES, _WORD = ("continuing_subword_prefix", "end_of_word_suffix"), "max_input_chars_per_word"
# Objects of a tokenizer.json with more keys than this are vocabularies.
_FEW_KEYS = 64


def check_file(path: Path, content: bytes) -> dict[str, Any]:
    """Refuse a tokenizer.json that the library cannot read safely.

    Args:
        path: the file, for errors.
        content: the bytes of the file.

    Returns:
        The values of the file.

    Raises:
        CheckpointError: if the content is not a JSON object, names a key twice, or is nested too deeply.
        UnsafeCheckpointError: if its character map is damaged, or its steps are not understood.
    """
    unreadable = "the tokenizer cannot be read"
    try:
        values = json.loads(content, object_pairs_hook=_with_distinct_keys)
    except RecursionError as error:
        raise CheckpointError(path, f"{unreadable}: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise CheckpointError(path, f"{unreadable}: {said(error)}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, f"{unreadable}: it is not a JSON object.")
    normalizer = values.get("normalizer")
    if is_nested_deeply(normalizer):
        raise CheckpointError(path, f"{unreadable}: its JSON is nested too deeply.")
    for step in flat_steps(normalizer, "normalizers"):
        # Without a type, the library guesses: a list with one text can be a character map too.
        if not isinstance(step, dict) or not isinstance(step.get("type"), str):
            problem = f"the step {shown(step)} of the normalizer has no type. Refused."
            raise UnsafeCheckpointError(path, problem)
        if step["type"] == "Precompiled":
            try:
                charsmap = base64.b64decode(step.get("precompiled_charsmap", ""), validate=True)
            except (TypeError, ValueError) as error:
                raise UnsafeCheckpointError(path, "its character map is not base64. Refused.") from error
            check_charsmap(path, charsmap)
    try:
        model = values.get("model") or {}
        _check_parts(path, values, model)
        _check_vocabulary(path, model)
    except (TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(path, f"{unreadable}: a part of it has the wrong type.") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(path, f"{unreadable}: {said(error)}.") from error
    return values


def _check_vocabulary(path: Path, model: Mapping[str, Any]) -> None:
    """Refuse tokens that are too long for the library, which calls itself for each character of a token.

    It also takes the prefix off the second token of each merge, without looking at it.
    """
    vocabulary = model.get("vocab") or ()
    tokens = vocabulary if isinstance(vocabulary, dict) else (entry[0] for entry in vocabulary)
    longest = max(map(len, tokens), default=0)
    if longest > MAX_TOKEN:
        problem = f"a token of the vocabulary has {longest} characters; no real one has more than {MAX_TOKEN}"
        raise UnsafeCheckpointError(path, f"{problem}. Refused.")
    prefix = model.get(_AFFIXES[0])
    if prefix and model.get("merges"):
        seconds = (merge.split(" ")[-1] if isinstance(merge, str) else merge[-1] for merge in model["merges"])
        if not all(second.startswith(prefix) for second in seconds):
            raise ValueError(f"a merge has a second token that does not begin with {shown(prefix)}")


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. The library reads a part that is there twice both times; Python keeps the last only."""
    values = dict(pairs)
    if len(values) < len(pairs) <= _FEW_KEYS:
        raise ValueError("an object of it has the same key twice")
    return values


def flat_steps(step: Any, key: str) -> Iterator[Any]:
    """The steps of a normalizer, pre-tokenizer or post-processor in JSON, without nested sequences.

    Args:
        step: the part of a tokenizer.json, or None.
        key: the name of the list in a sequence: "normalizers", "pretokenizers" or "processors".
    """
    if isinstance(step, dict) and step.get("type") == "Sequence" and isinstance(step.get(key), list):
        for inner in step[key]:
            yield from flat_steps(inner, key)
    elif step is not None:
        yield step


def check_charsmap(path: Path, charsmap: bytes) -> None:
    """Refuse a SentencePiece character map with numbers that lead out of it.

    A map is the size of a trie (4 bytes), the trie ("double array" of 32-bit units), and texts that each end
    with a zero byte. A unit leads to the units of the next byte; a unit with its highest bit set is the place
    of a text.

    Source: the format of Darts-clone and of SentencePiece's `normalizer.cc`.

    Raises:
        UnsafeCheckpointError: if the map is damaged, or a text is longer than any real one.
    """
    size = int.from_bytes(charsmap[:4], "little")
    texts = charsmap[4 + size :]
    ends = np.flatnonzero(np.frombuffer(texts, np.uint8) == 0)
    problem = None
    if not 0 < size < len(charsmap) - 4 or size % 4 or texts[-1]:
        problem = f"says that its trie has {size} bytes, but it has {len(charsmap)} bytes with all its texts"
    else:
        units: Array = np.frombuffer(charsmap[4 : 4 + size], "<u4")
        inner = units >> 31 == 0
        bases = np.arange(len(units), dtype=np.uint32) ^ (units >> 10 << ((units & 512) >> 6))
        starts = np.append(0, ends[:-1] + 1)
        # A unit with a text has it in the first unit that it leads to.
        with_text = inner & (units >> 8 & 1 == 1)
        if (bases[inner] | 255).max(initial=0) >= len(units):
            problem = "leads out of its trie"
        elif not np.isin(units[bases[with_text]] & 0x7FFFFFFF, starts).all():
            problem = "leads to a place that is not a text of it"
        elif (ends - starts).max() > MAX_GROWTH:
            problem = f"has a text of {(ends - starts).max()} bytes; no real one has more than {MAX_GROWTH}"
        else:
            try:
                texts.decode("utf-8")
            except UnicodeDecodeError:
                problem = "has a text that is not UTF-8"
    if problem is not None:
        raise UnsafeCheckpointError(path, f"its character map {problem}. Refused.")


def state_of(part: _Library) -> dict[str, Any] | None:
    """The settings of a part of a tokenizer as the library understands them. The vocabulary is not read."""
    settings: dict[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return settings


def check_steps(path: Path, library: _Library) -> None:
    """Refuse steps that make a text far longer, and settings that take too much time for a long word.

    `check_file` refuses them too, but the library may read a part of a file in another way.

    Args:
        path: the file, for errors.
        library: the tokenizer.

    Raises:
        UnsafeCheckpointError: if there are such.
        CheckpointError: if a word without a token would be an error.
    """
    unknown = getattr(library.model, "unk_token", None)
    is_needed = type(library.model).__name__ in ("WordPiece", "WordLevel")
    if is_needed and library.model.token_to_id(unknown) is None:
        raise CheckpointError(
            path, f"the token of unknown words, {shown(unknown)}, is not in the vocabulary."
        )
    parts = {
        name: state_of(getattr(library, name)) for name in ("normalizer", "pre_tokenizer", "post_processor")
    }
    _check_parts(path, parts, {name: getattr(library.model, name, None) for name in (*_AFFIXES, _WORD)})


def _check_parts(path: Path, parts: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    steps = [
        *flat_steps(parts.get("normalizer"), "normalizers"),
        *flat_steps(parts.get("pre_tokenizer"), "pretokenizers"),
    ]
    if any(step["type"] == "Replace" and _matches_nothing(step["pattern"]) for step in steps):
        raise UnsafeCheckpointError(
            path, "the tokenizer replaces the empty text, where the library fails. Refused."
        )
    growth = 1.0
    for step in steps:
        growth = min(growth * _growth(step), 1e9)
    processors = list(flat_steps(parts.get("post_processor"), "processors"))
    n_added, n_texts = len(processors), set()
    for step in processors:
        if step["type"] == "TemplateProcessing":
            special = [piece["SpecialToken"]["id"] for piece in step["single"] if "SpecialToken" in piece]
            n_added += sum(len(step["special_tokens"][name]["ids"]) for name in special)
            n_texts.add(len(step["single"]) - len(special))
    affix = max(len(model.get(name) or "") for name in _AFFIXES)
    word = model.get(_WORD) or 0
    problems = {
        f"has more than {MAX_STEPS} steps": len(steps) > MAX_STEPS,
        f"adds more than {MAX_STEPS} tokens to a text": n_added > MAX_STEPS,
        f"can make a text more than {MAX_GROWTH} times longer": growth > MAX_GROWTH,
        "does not put a text once into its template": bool(n_texts - {1}),
        f"adds more than {MAX_AFFIX} characters to each part of a word": affix > MAX_AFFIX,
        f"has {shown(word)} as {_WORD!r}, more than {MAX_WORD}": word > MAX_WORD,
    }
    for problem, is_met in problems.items():
        if is_met:
            raise UnsafeCheckpointError(path, f"the tokenizer {problem}. No real tokenizer does. Refused.")


def _matches_nothing(pattern: Mapping[str, str]) -> bool:
    """Whether a pattern matches the empty text, as far as Python understands it."""
    if "String" in pattern:
        return not pattern["String"]
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.search(pattern["Regex"], "") is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer a step can make a text, if it does so each time that it is applied."""
    match step["type"]:
        case "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"])
            texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :].decode("utf-8")
            return max(map(len, texts.split("\0")))
        case "Replace":
            pattern, content = step["pattern"], len(step["content"])
            if "String" in pattern:
                return max(1, content / max(len(pattern["String"]), 1))
            # Before each character, it may match where it only looks ahead.
            return 1 + content
        case "Prepend":
            # Each part between two added tokens gets the text.
            return 1 + len(step["prepend"])
        case "ByteLevel":
            # Each byte of a character becomes a character.
            return 4
    return 1
