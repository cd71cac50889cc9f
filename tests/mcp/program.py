"""The command line with a model that needs no checkpoint, and that prints or waits if the environment says so."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import warnings
from pathlib import Path

from word_model import WordModel

from mlx_colbert.cli import main
from mlx_colbert.model.colbert import ColBERT


class Model(WordModel):
    def encode_query(self, texts, **options):
        if os.environ.get("WORD_PROGRAM_NOISE"):
            print("noise of Python")
            os.write(1, b"noise of a descriptor\n")
            ctypes.CDLL(None).puts(b"noise of C")
            ctypes.CDLL(None).fflush(None)
            warnings.warn("a warning", stacklevel=1)
        if texts == "wait" and (path := os.environ.get("WORD_PROGRAM_WAIT")):
            Path(path).touch()
            time.sleep(600)
        return super().encode_query(texts, **options)


def load(source, **options):
    if os.environ.get("WORD_PROGRAM_MODEL") == "none":
        raise AssertionError("a model is loaded")
    return Model(source="words")


ColBERT.load = load

if __name__ == "__main__":
    sys.exit(main())
