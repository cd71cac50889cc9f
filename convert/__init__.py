"""Convert PyTorch ColBERT checkpoints to MLX model folders, without torch.

- `sources/` finds the layout of a checkpoint and reads its settings;
- `families/` maps settings and names of Hugging Face to canonical ones;
- `weights.py` and `torch_pickle.py` read tensors, `tokenization.py` the tokenizer;
- `problems.py` collects what is wrong, so that one error lists all of it;
- `converted.py` joins them, and `draft.py` makes the folder appear whole or not at all;
- `conversion.py` adds what needs a finished model: `projection.py`, `upload.py`;
- `verify.py` compares a model with the original or with published values;
- `indexes/` reads indexes of other engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ == "convert":
    raise ImportError(
        "this folder is the package mlx_colbert.convert: install the project (pip install -e .) first"
    )

if TYPE_CHECKING:
    from mlx_colbert.convert.conversion import convert

__all__ = ["convert"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the model loader imports a part of this package, and `convert` imports the model.
    if name != "convert":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlx_colbert.convert.conversion import convert

    globals()[name] = convert
    return convert
