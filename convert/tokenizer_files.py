"""Checks the tokenizer files of a checkpoint before transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_colbert.convert.protobuf import ProtobufReader, as_bytes
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError, said
from mlx_colbert.model.hub import TOKENIZERS
from mlx_colbert.model.tokenizer_file import MAX_TOKEN, check_charsmap, check_file
from mlx_colbert.untrusted import MAX_FILE_BYTES, check_size, read_json, reading, shown

__all__ = ["check_files"]

# A sentencepiece model of 256,000 pieces has 5 MB. Python reads each piece.
MAX_MODEL_BYTES = 16 << 20
# Gemma's tokenizer.json, of 262,000 tokens and 580,000 merges, has 1.5 million commas, 580,000 lists and
# 310,000 keys. Each value becomes an object.
MAX_VALUES, MAX_KEYS = 3_000_000, 1_000_000
# Lines of a vocab.txt or merges.txt: mBERT's has 120,000.
MAX_LINES = 1_000_000


def check_files(folder: Path) -> list[tuple[int, str]]:
    """Refuse a folder without a tokenizer, and settings that would read files outside the folder.

    Returns:
        The ids and the names of added tokens, as the files say them.

    Raises:
        CheckpointNotFoundError: if there is no tokenizer.
        UnsafeCheckpointError: if a file is too large, or is a pipe or a device.
        CheckpointError: if a setting would read a file outside the folder. The error names it.
    """
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in TOKENIZERS):
        raise CheckpointNotFoundError(folder, f"has no tokenizer. It needs one of {', '.join(TOKENIZERS)}.")
    # transformers reads all of these whole.
    for pattern in ("*.json", "*.txt", "*.model", "*.jinja", "*/*.jinja"):
        for path in folder.glob(pattern):
            if not path.is_file():
                if path.exists() and not path.is_dir():  # reading a pipe would wait for ever
                    raise UnsafeCheckpointError(path, "is a pipe or a device, not a file. Remove it.")
                continue
            check_size(path, MAX_MODEL_BYTES if path.suffix == ".model" else MAX_FILE_BYTES)
            if path.suffix in (".json", ".txt"):
                _check_values(path)
            elif path.suffix == ".model" and not (folder / "tokenizer.json").is_file():
                _check_model(path)
    found: list[tuple[Any, Any]] = []
    if (path := folder / "tokenizer.json").is_file():
        with reading(path):
            content = path.read_bytes()
        added = check_file(path, content).get("added_tokens")
        found = [(entry.get("id"), entry.get("content")) for entry in added or () if isinstance(entry, dict)]
    if (path := folder / "tokenizer_config.json").is_file():
        found += _checked_settings(path)
    return [(number, token) for number, token in found if type(number) is int and isinstance(token, str)]


def _checked_settings(path: Path) -> list[tuple[int, Any]]:
    """The ids of the added tokens in a tokenizer_config.json, which must not name other files or code.

    Raises:
        CheckpointError: if there is such a setting. The error names it.
    """
    settings = read_json(path)
    if settings.get("fast_tokenizer_files"):
        raise UnsafeCheckpointError(
            path, "'fast_tokenizer_files' names other files. Only tokenizer.json is read."
        )
    for key, value in settings.items():
        # Some versions of transformers open these as paths. Old checkpoints contain paths of their authors.
        if isinstance(value, str) and (
            key in ("vocab", "merges") or (key.endswith("_file") and _exists(value))
        ):
            raise UnsafeCheckpointError(path, f"{key!r} names a file outside the checkpoint. Refused.")
    if settings.get("auto_map"):
        raise CheckpointError(
            path, "'auto_map' names a tokenizer that is code in the repository. Such code is never run."
        )
    length = settings.get("model_max_length")
    # Older versions write "no limit" as 1e30; others make 512 a 512.0.
    is_length = type(length) is int or (isinstance(length, float) and (length > 1e9 or length.is_integer()))
    if length is not None and not (is_length and length >= 3):
        problem = f"'model_max_length' must be a number of tokens, got {shown(length)}."
        raise CheckpointError(path, problem)
    added = settings.get("added_tokens_decoder")
    return [
        (int(number), entry.get("content"))
        for number, entry in (added.items() if isinstance(added, dict) else ())
        if number.isdecimal() and len(number) < 20 and isinstance(entry, dict)
    ]


def _check_values(path: Path) -> None:
    """Refuse a file with more values than any real tokenizer has. Each becomes an object in memory.

    Raises:
        UnsafeCheckpointError: if the file has more.
    """
    counted = (
        {b"\n": MAX_LINES} if path.suffix == ".txt" else {b",": MAX_VALUES, b"[": MAX_VALUES, b'":': MAX_KEYS}
    )
    counts = dict.fromkeys(counted, 0)
    with reading(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            for sign in counts:
                counts[sign] += block.count(sign)
    for sign, limit in counted.items():
        if counts[sign] > limit:
            reason = f"has {counts[sign]} times {sign.decode()!r}; no real tokenizer has more than {limit}"
            raise UnsafeCheckpointError(path, f"{reason}. Refused.")


def _check_model(path: Path) -> None:
    """Refuse a SentencePiece model with a damaged character map, which the library trusts.

    Raises:
        UnsafeCheckpointError: if there is such a map.
        CheckpointError: if the file is not a SentencePiece model.
    """
    reader = ProtobufReader(path, MAX_LINES)
    with reading(path):
        content = memoryview(path.read_bytes())
    try:
        for number, value in reader.fields(content):
            # Its field 1 is a piece: a text and two numbers.
            if number == 1 and len(as_bytes(value)) > 4 * MAX_TOKEN:
                raise UnsafeCheckpointError(path, f"has a piece of {len(as_bytes(value))} bytes. Refused.")
            # Its field 3 has the settings of the normalizer; their field 2 is the map.
            for inner, charsmap in reader.fields(as_bytes(value)) if number == 3 else ():
                if inner == 2 and len(as_bytes(charsmap)):
                    check_charsmap(path, bytes(as_bytes(charsmap)))
    except (ValueError, LookupError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            path, f"cannot be read: {said(error)}. It is damaged or not SentencePiece."
        ) from error


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a name
        return False
