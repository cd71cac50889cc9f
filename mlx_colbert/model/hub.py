"""Finds a checkpoint: a folder on this machine, or a repository on the Hugging Face hub.

Only the files that are needed are downloaded, in rounds: the files of one round tell which files the next
round needs. huggingface_hub keeps the files, resumes a download that stopped, and works from its cache if
there is no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_colbert.checks import is_text
from mlx_colbert.errors import CheckpointNotFoundError, UnsafeCheckpointError, said
from mlx_colbert.model.modules import read_modules
from mlx_colbert.untrusted import read_json

__all__ = [
    "CHANGES",
    "ONNX_WEIGHTS",
    "SENTENCE_CONFIGS",
    "TOKENIZERS",
    "WEIGHTS",
    "Location",
    "hub_cause",
    "hub_reason",
    "locate",
    "read_files",
    "snapshot",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHARD = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
# In order of preference; each may also be split into several files with an index. safetensors files contain
# nothing but tensors, and are mapped without a copy.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Used if there are no other weights. Floats before 8-bit integers.
ONNX_WEIGHTS = tuple(
    folder + name
    for name in ("model.onnx", "model_quantized.onnx", "model_int8.onnx")
    for folder in ("", "onnx/")
)
# All the names that sentence-transformers has used for one file.
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
# One of these is enough for a tokenizer. Without any, transformers makes up a tokenizer of five words.
TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
# A folder with one of these is refused, because its weights alone are not the model. The second is the
# projection of BGE-M3.
CHANGES = ("adapter_config.json", "colbert_linear.pt")
# Endings of the files that this package or transformers reads, and the folders that transformers reads.
_READ = {".json", ".txt", ".model", ".spm", ".jinja", ".metadata", ".safetensors", ".bin", ".pt", ".onnx"}
# Endings of weight files. Their readers refuse everything else, and show nothing of it.
_LINKED = {".safetensors", ".bin", ".onnx"}
_READ_FOLDERS = {"additional_chat_templates", "onnx"}
# The files that are read from a folder, without the weights.
_SETTINGS = (
    *("config.json", "modules.json", "config_sentence_transformers.json", "artifact.metadata"),
    *SENTENCE_CONFIGS,
    *TOKENIZERS,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *CHANGES,
    *(f"{name}.index.json" for name in WEIGHTS),
)


@dataclass(frozen=True)
class Location:
    """A checkpoint on this machine.

    Attributes:
        folder: its files.
        id: hub id, or the folder's name.
        revision: commit of the hub repository, None for a local folder.
    """

    folder: Path
    id: str
    revision: str | None = None


def locate(path_or_hub_id: str | Path, *, revision: str | None = None) -> Location:
    """A checkpoint's folder on this machine. It is downloaded from the Hugging Face hub if necessary.

    Args:
        path_or_hub_id: an existing folder, or a hub id such as "colbert-ir/colbertv2.0".
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointNotFoundError: if there is no such folder, and it cannot be downloaded from the hub.
        UnsafeCheckpointError: if a file of the folder is a link to a file outside it.
    """
    path = Path(path_or_hub_id)
    if not str(path_or_hub_id) or not is_text(str(path)):
        raise CheckpointNotFoundError(ascii(str(path_or_hub_id)), "is not a folder or a hub id (owner/name).")
    if path.is_dir():
        resolved = path.resolve()
        _check_links(resolved)
        return Location(resolved, resolved.name)
    if path.exists():
        raise CheckpointNotFoundError(path, "is a file. Give the folder that contains config.json.")
    name = str(path_or_hub_id)
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise CheckpointNotFoundError(name, "there is no such folder, and this is not a hub id (owner/name).")
    return _download(name, revision)


def _check_links(folder: Path) -> None:
    """Refuse symbolic links from a file that is read to a file outside the checkpoint, unless it is weights.

    With such a link, the author of a checkpoint could read a private file of the user. A link that the user
    gives as the path is followed: `folder` is its target. In a snapshot of the hub's cache, files are links
    to the blobs beside the snapshots. The user may have moved the blobs to another disk.

    A weight file may be a link to a weight file on another disk. From any other file behind such a link,
    nothing is read but the beginning, and nothing gets into the result. Texts and settings would get there.

    Raises:
        UnsafeCheckpointError: if there is such a link. The error names it.
    """
    for path in _read_in(folder):
        _check_link(folder, path)
    # The links beside modules.json have been checked, so it is safe to read.
    for place in _places(folder):
        _check_link(folder, folder / place)
        for path in _read_in(folder / place):
            _check_link(folder, path)


def read_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that may be read, sorted. Other folders, such as `venv/`, are left out."""
    folders = [folder, *(folder / place for place in _places(folder))]
    return sorted({path for inner in folders for path in _read_in(inner) if path.is_file()})


def _read_in(folder: Path) -> list[Path]:
    """The files of one folder that may be read, and the folders in it that transformers reads."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in _READ:
            found.append(path)
        elif path.name in _READ_FOLDERS:
            found += [path, *_read_in(path)]
    return found


def _check_link(folder: Path, path: Path) -> None:
    roots, blobs = [folder], folder.parent.parent / "blobs"
    if folder.parent.name == "snapshots":
        roots.append(blobs)
    # Path.resolve raises for a link to itself before Python 3.13.
    target = Path(os.path.realpath(path))
    if any(target.is_relative_to(root) for root in roots) or _is_link_to_weights(path, target):
        return
    if folder.parent.name == "snapshots" and path.is_symlink():
        from huggingface_hub import constants

        # The cache made this link. The blobs may be anywhere.
        named = Path(os.path.normpath(path.parent / path.readlink()))
        if named.parent == blobs and folder.is_relative_to(os.path.realpath(constants.HF_HUB_CACHE)):
            return
    reason = f"is a symbolic link to {target}, outside the checkpoint. Refused"
    raise UnsafeCheckpointError(path, f"{reason}. Copy the file, or link the whole folder instead.")


def _is_link_to_weights(path: Path, target: Path) -> bool:
    """Whether a weight file is a link to a file of the same kind, or to a blob of the hub's cache."""
    if path.suffix not in _LINKED or not target.is_file():
        return False
    if target.suffix == path.suffix:
        return True
    from huggingface_hub import constants

    is_blob = target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name)
    return bool(is_blob) and target.is_relative_to(os.path.realpath(constants.HF_HUB_CACHE))


def hub_reason(error: Exception, hub_id: str, revision: str | None = None) -> str:
    """A sentence that says why the hub did not answer as wanted, and what to do.

    Args:
        error: the exception of huggingface_hub.
        hub_id: the repository.
        revision: the branch, tag or commit that was asked for.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    error = _unwrapped(error)
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return f"it is gated: accept its terms at {constants.ENDPOINT}/{hub_id}, and {log_in}."
    if isinstance(error, RepositoryNotFoundError):
        return f"it has no such repository. If it is private, {log_in}."
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision!r}."
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the files are not in the cache."
    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        return f"it needs a valid token: {log_in}."
    if (lost := _lost_connection(error)) is not None:
        why = lost.strerror or type(lost).__name__
        return (
            f"{constants.ENDPOINT} cannot be reached ({why}). Check the network, or give the path of a "
            "folder with the model."
        )
    return f"{said(error)}."


def hub_cause(error: Exception) -> Exception | None:
    """The exception to chain to ours. None if it says no more than `hub_reason` does."""
    error = _unwrapped(error)
    says_no_more = isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "requests"))
    return None if says_no_more else error


def _unwrapped(error: Exception) -> Exception:
    """The error itself. huggingface_hub wraps an error of an upload thread in a RuntimeError."""
    cause = error.__cause__ if type(error) is RuntimeError else None
    return cause if isinstance(cause, Exception) else error


def _lost_connection(error: BaseException | None) -> OSError | None:
    """The operating system's error about a lost connection, if it is among the causes of an error."""
    # It takes longer to import than a short text to encode.
    from socket import gaierror

    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, ConnectionRefusedError | TimeoutError | gaierror):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def snapshot(hub_id: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """The folder with the files of a hub repository whose names fit a pattern, downloaded if necessary.

    Args:
        hub_id: the repository.
        patterns: names, or patterns such as "*.json".
        revision: branch, tag or commit.

    Raises:
        CheckpointNotFoundError: if the download fails. The error says why.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    # The library's HTTP client changes with its version, and so do the exceptions that it raises.
    except Exception as error:
        reason = hub_reason(error, hub_id, revision)
        problem = f"there is no such folder, and it could not be downloaded from the hub: {reason}"
        raise CheckpointNotFoundError(hub_id, problem) from hub_cause(error)


def _download(hub_id: str, revision: str | None) -> Location:
    """The folder of a repository's commit, after a download of the files that are needed.

    Raises:
        CheckpointNotFoundError: if the download fails. The error says why.
    """
    commit, asked, needed = revision, set[str](), set(_SETTINGS)
    while needed - asked:
        asked |= needed
        folder = snapshot(hub_id, sorted(asked), revision=commit)
        # A branch may move between two rounds.
        commit = folder.name
        needed = _needed(folder, asked)
    return Location(folder, hub_id, commit)


def _needed(folder: Path, asked: set[str]) -> set[str]:
    """The files of a repository that are needed, as far as the files downloaded so far tell.

    Args:
        folder: the files downloaded so far.
        asked: the names of all files asked for. The repository may not have all of them.
    """
    needed = set()
    for place in _places(folder):
        needed |= {place + name for name in _SETTINGS}
        for name in (*WEIGHTS, *ONNX_WEIGHTS):
            needed.add(place + name)
            index = folder / f"{place}{name}.index.json"
            if place + name not in asked or (folder / (place + name)).is_file():
                break
            if index.is_file():
                shards = read_json(index).get("weight_map")
                names = shards.values() if isinstance(shards, dict) else ()
                # The converter refuses every other name.
                needed |= {place + name for name in names if isinstance(name, str) and _SHARD.fullmatch(name)}
                break
    return needed


def _places(folder: Path) -> set[str]:
    """The folders that contain parts of the model: "" or "1_Dense/", for example."""
    modules = read_modules(folder)
    places = {module.place for module in modules}
    # A modules.json without a Dense module may be out of date. Then the model is in the folder itself.
    return places if any(module.kind == "Dense" for module in modules) else {"", *places}
