"""Errors of the system while a checkpoint is read: they are said as what they are, and nothing is thrown away."""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
from pathlib import Path

import pytest
from spoiling import CHECKPOINTS, refusal

from mlx_colbert import ColBERT
from mlx_colbert.cli.program import run
from mlx_colbert.convert import convert
from mlx_colbert.convert.torch_pickle import read_torch_file

CODES = [errno.EIO, errno.ENOMEM, errno.EMFILE]
FILES = ["config.json", "model.safetensors", "tokenizer.json"]


class Unreadable(io.BufferedIOBase):
    """A file on a broken disk."""

    def __init__(self, code: int) -> None:
        self.code = code

    def readable(self) -> bool:
        return True

    def read(self, *_: object) -> bytes:
        raise OSError(self.code, "injected")

    readinto = readinto1 = read1 = read


def spoil_reading(monkeypatch, path: Path, code: int, *, at_open: bool = False) -> None:
    original = io.open

    def opened(file, mode="r", *rest, **settings):
        if isinstance(file, str | Path) and Path(file) == path and "r" in mode:
            if at_open:
                raise OSError(code, "injected")
            return Unreadable(code)
        return original(file, mode, *rest, **settings)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("at_open", [True, False])
@pytest.mark.parametrize(
    "file", [*FILES, "modules.json", "1_Dense/model.safetensors", "tokenizer_config.json"]
)
def test_file_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch, file, code, at_open):
    spoil_reading(monkeypatch, CHECKPOINTS / "pylate-bert" / file, code, at_open=at_open)
    with pytest.raises(OSError) as caught:
        convert(CHECKPOINTS / "pylate-bert", tmp_path / "model")
    assert caught.value.errno == code and Path(caught.value.filename).name == Path(file).name
    assert "damaged" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("path", ["torch/zip.bin", "torch/legacy.bin"])
def test_pickle_that_cannot_be_mapped_now_is_not_called_damaged(data, monkeypatch, path, code):
    def fail(*_, **__):
        raise OSError(code, "injected")

    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(OSError) as caught:
        read_torch_file(data / path)
    assert caught.value.errno == code and "damaged" not in str(caught.value)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("file", FILES)
def test_folder_of_the_cache_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch, file, code):
    monkeypatch.setenv("MLX_COLBERT_CACHE", str(tmp_path))
    source = CHECKPOINTS / "pylate-bert"
    ColBERT.load(source, backend="numpy")
    (folder,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        spoil_reading(patch, folder / file, code)
        for path in (folder, source):
            with pytest.raises(OSError) as caught:
                ColBERT.load(path, backend="numpy")
            assert caught.value.errno == code
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before
    ColBERT.load(source, backend="numpy")


@pytest.mark.parametrize(
    "place",
    [
        "mlx_colbert.convert.converted.read_source",
        "mlx_colbert.convert.weights.read_safetensors",
        "mlx_colbert.convert.converted.convert_tokenizer",
        "transformers.AutoTokenizer.from_pretrained",
        "mlx_colbert.convert.tokenization._converted",
        "mlx_colbert.convert.converted.write_safetensors",
    ],
)
def test_lack_of_memory_at_any_time_is_one_line(tmp_path, monkeypatch, capsys, place):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(place, fail)
    arguments = ["--hf-path", str(CHECKPOINTS / "pylate-bert"), "--mlx-path", str(tmp_path / "model")]
    assert run(["convert", *arguments]) == 1
    assert capsys.readouterr().err == "mlx-colbert: error: there is not enough memory.\n"
    assert list(tmp_path.iterdir()) == []


def test_swollen_weights_are_refused_where_the_system_can_map_them(copy):
    source = copy("pylate-bert")
    os.truncate(source / "model.safetensors", 1 << 30)
    assert "cannot be read" in refusal(source)
