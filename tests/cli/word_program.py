"""The command line with a model that needs no checkpoint. It runs in a process of its own."""

from __future__ import annotations

import sys

from word_model import WordModel

from mlx_colbert.cli import main
from mlx_colbert.model.colbert import ColBERT

ColBERT.load = lambda source, *, backend="numpy", revision=None, **lengths: WordModel(source="words")

if __name__ == "__main__":
    sys.exit(main())
