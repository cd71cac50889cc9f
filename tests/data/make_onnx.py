"""Exports the backbones of some test checkpoints to ONNX, and quantises them: python make_onnx.py

README.md has the versions.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel

HERE = Path(__file__).parent
TARGET = HERE / "onnx"


def export(name: str) -> Path:
    """Writes a checkpoint's backbone in float32, as optimum exports it: with the names of the modules."""
    model = AutoModel.from_pretrained(HERE / "checkpoints" / name, attn_implementation="eager").eval().float()

    class Backbone(type(model)):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    model.__class__ = Backbone
    ids = torch.full((2, 7), 5)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    path = TARGET / f"{name}.onnx"
    torch.onnx.export(
        model, (ids, torch.ones_like(ids)), path, input_names=names, output_names=["last_hidden_state"],
        dynamo=False, opset_version=14, dynamic_axes=axes,
    )  # fmt: skip
    return path


def quantize(path: Path, *, per_channel: bool) -> None:
    """Writes the 8-bit version of an export: one step size per matrix, or one per column."""
    target = path.with_name(f"{path.stem}-int8{'-columns' if per_channel else ''}.onnx")
    quantize_dynamic(path, target, per_channel=per_channel, weight_type=QuantType.QInt8)


def shrink(path: Path) -> None:
    """Takes the notes of the exporter away, which hold paths of its machine."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, path)


TARGET.mkdir(exist_ok=True)
bert = export("pylate-bert")
quantize(bert, per_channel=False)
quantize(export("native-distilbert"), per_channel=True)
export("plain-modernbert")
(TARGET / "native-distilbert.onnx").unlink()
for file in TARGET.glob("*.onnx"):
    shrink(file)
