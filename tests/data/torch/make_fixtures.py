"""Writes the small PyTorch files beside it. See README.md for the command."""

from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def state() -> OrderedDict:
    """Hand-made values, so that a test can spell out what it expects."""
    storage = torch.arange(12, dtype=torch.float32)
    weights = OrderedDict(
        float32=torch.tensor([[1.0, -2.0, 0.5], [3.0, 4.0, 5.0]]),
        float16=torch.tensor([1.5, -0.25], dtype=torch.float16),
        bfloat16=torch.tensor([1.0, -2.0, 3.140625], dtype=torch.bfloat16),
        float64=torch.tensor([0.1], dtype=torch.float64),
        int64=torch.tensor([[0, 1, -(2**40)]]),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        transposed=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T,
        offset=storage[8:],
        shared=storage[:4].view(2, 2),
        tied=storage[8:],
        parameter=torch.nn.Parameter(torch.tensor([7.0, 8.0])),
        scalar=torch.tensor(9.0),
        empty=torch.zeros(0, 3, dtype=torch.bfloat16),
    )
    weights["steps"] = 3
    weights["note"] = "not a tensor"
    weights["size"] = torch.Size([2, 3])
    weights["dtype"] = torch.float16
    weights._metadata = OrderedDict({"": {"version": 1}})
    return weights


if __name__ == "__main__":
    torch.save(state(), FOLDER / "zip.bin")
    torch.save(state(), FOLDER / "zip_protocol4.bin", pickle_protocol=4)
    torch.save(state(), FOLDER / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, FOLDER / "nested.bin")
    torch.save({"w": torch.zeros(1).expand(4)}, FOLDER / "expanded.bin")
