"""Turns PyTorch ColBERT checkpoints into MLX model folders, without torch.

`sources.py` recognises the layout, `architectures.py` maps settings, `parameters.py` names, `weights.py` and
`torch_pickle.py` read tensors, `conversion.py` joins them, `verify.py` compares the result.
"""

from __future__ import annotations

if __name__ == "convert":
    raise ImportError(
        "this folder is the package mlx_colbert.convert: install the project (pip install -e .) first"
    )

from mlx_colbert.convert.conversion import convert

__all__ = ["convert"]
