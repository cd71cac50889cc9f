"""Reads the weights of ONNX files (`model.onnx`) without the onnx package. The graph is not run.

An ONNX file is one protobuf message: nodes, and the tensors that they use ("initializers"). A tensor keeps
its PyTorch name, unless the exporter changed it: the matrix of a linear layer is transposed and called
"onnx::MatMul_123". Then the name of the node that multiplies by it, "/encoder/layer.0/output/dense/MatMul",
tells the module. onnxruntime's dynamic quantisation stores a matrix X as 8-bit integers "X_quantized" with
"X_scale" and "X_zero_point".

Source: onnx.proto3 of ONNX 1.20 for the field numbers, which never change.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_colbert.convert.protobuf import ProtobufReader, as_bytes
from mlx_colbert.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError, said
from mlx_colbert.model.safetensors_file import NUMPY_TYPES, bfloat16_to_float32
from mlx_colbert.types import Array
from mlx_colbert.untrusted import reading

__all__ = ["onnx_file_shapes", "read_onnx_file"]

# A BERT of 12 layers has 12,000 fields. Each may become an object of a few hundred bytes.
MAX_FIELDS = 500_000
# Names have some hundred bytes. One of zeros can be far longer than the room that it takes on the disk.
MAX_NAME_BYTES = 1 << 16
# Factor: an 8-bit integer becomes a float32, and a few small tensors may be shared. A larger one is an
# attack.
MAX_GROWTH = 8

# TensorProto.DataType -> safetensors' name of the type. Tensors of other types are not weights.
_TYPES = {1: "F32", 2: "U8", 3: "I8", 10: "F16", 11: "F64", 16: "BF16"}
# The node that multiplies by a module's matrix; onnxruntime adds "Gemm_" and "_quant".
_MATMUL = re.compile(r"/?(?P<module>[^/].*)/(?:Gemm_)?MatMul(?:_\d+)?(?:_quant)?")
_QUANTIZED = "_quantized"


@dataclass(frozen=True)
class _Tensor:
    """An initializer: its type as safetensors calls it, its shape, and its bytes in the file."""

    code: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    def array(self) -> Array:
        values: Array = np.frombuffer(self.data, NUMPY_TYPES[self.code]).reshape(self.shape)
        return bfloat16_to_float32(values) if self.code == "BF16" else values


@dataclass(frozen=True)
class _Weight:
    """A parameter of the model.

    Attributes:
        stored: its initializer.
        scale: for 8-bit integers, the step size of the tensor or of each column. None: not quantised.
        zero: the integer that stands for 0. None: 0.
        transposed: whether the matrix in the file is (inputs, outputs).
    """

    stored: _Tensor
    scale: _Tensor | None
    zero: _Tensor | None
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape[::-1] if self.transposed else self.stored.shape

    def array(self) -> Array:
        values = self.stored.array()
        if self.scale is not None:
            # The steps belong to the last axis of the stored matrix: its columns, if there are several.
            values = values.astype(np.float32)
            # `read_weights` refuses what is not finite.
            with np.errstate(all="ignore"):
                if self.zero is not None:
                    values -= self.zero.array().astype(np.float32).reshape(-1)
                values *= self.scale.array().astype(np.float32).reshape(-1)
        # A tensor may start anywhere in the file. BLAS and MLX need aligned numbers.
        return np.require(values.T if self.transposed else values, requirements=["C", "A"])


def read_onnx_file(path: Path, *, names: Collection[str] | None = None) -> dict[str, Array]:
    """The weights of an ONNX file, as float arrays under their PyTorch names.

    Args:
        path: the file.
        names: the weights to read. None: all.

    Returns:
        name -> array, possibly read-only. 8-bit integers become float32: (integer - zero point) * scale.

    Raises:
        CheckpointNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file names other files, or needs much more memory than its size.
        CheckpointError: if the file is damaged, or its nodes have no module names.
    """
    found = _weights(path)
    return {name: found[name].array() for name in (found if names is None else names)}


def onnx_file_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type on disk and the shape of each weight in an ONNX file. No weight is read.

    Returns:
        name -> (safetensors' name of the type: "F32", "I8" …, shape as in PyTorch).

    Raises:
        CheckpointError: as `read_onnx_file`.
    """
    return {name: (weight.stored.code, weight.shape) for name, weight in _weights(path).items()}


def _weights(path: Path) -> dict[str, _Weight]:
    """The weights of a file by their PyTorch names."""
    if not path.is_file():
        raise CheckpointNotFoundError(path, "there is no such file.")
    try:
        with reading(path), path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        tensors, nodes = _Reader(path, MAX_FIELDS).graph(data)
        found = _named(path, tensors, nodes)
    except (ValueError, LookupError, OverflowError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            path, f"cannot be read: {said(error)}. The file is damaged or is not ONNX."
        ) from error
    claimed = sum(4 * math.prod(weight.shape) for weight in found.values())
    if claimed > MAX_GROWTH * len(data):
        raise UnsafeCheckpointError(
            path, f"its tensors need {claimed} bytes, but the file has {len(data)}. Refused."
        )
    return found


def _named(path: Path, tensors: dict[str, _Tensor], nodes: list[_Node]) -> dict[str, _Weight]:
    """The weights among the initializers, by their PyTorch names."""
    # Equal tensors are stored once. Identity nodes give the other names.
    for node in nodes:
        if node.kind == "Identity" and node.inputs[:1] and node.inputs[0] in tensors and node.outputs:
            tensors.setdefault(node.outputs[0], tensors[node.inputs[0]])
    modules: dict[str, str] = {}
    for node in nodes:
        match = _MATMUL.fullmatch(node.name)
        if (
            node.kind in ("MatMul", "MatMulInteger")
            and node.inputs[1:2]
            and node.inputs[1] in tensors
            and match
        ):
            modules[node.inputs[1].removesuffix(_QUANTIZED)] = match["module"].replace("/", ".") + ".weight"
    if not modules:
        advice = "Export it with torch.onnx.export(..., dynamo=False), or convert the original weights."
        raise CheckpointError(path, f"no node names the module that it belongs to. {advice}")
    found: dict[str, _Weight] = {}
    for stored in tensors:
        is_quantized = stored.endswith(_QUANTIZED)
        name = stored.removesuffix(_QUANTIZED)
        part_of = name.removesuffix("_scale").removesuffix("_zero_point") + _QUANTIZED
        final = modules.get(name, name)
        # A name without a dot, or with one of these beginnings, is a constant of the exporter.
        if (part_of in tensors and not is_quantized) or "." not in final or final.startswith(("/", "onnx::")):
            continue
        if final in found:
            raise ValueError(f"it has two tensors for {final[:100]!r}")
        found[final] = _weight(name, tensors, is_quantized=is_quantized, transposed=name in modules)
    return found


def _weight(name: str, tensors: dict[str, _Tensor], *, is_quantized: bool, transposed: bool) -> _Weight:
    """One weight. `name` is the name of its initializer, without the suffix of the quantisation."""
    stored = tensors[name + _QUANTIZED] if is_quantized else tensors[name]
    if transposed and len(stored.shape) != 2:
        raise ValueError(f"{name[:100]!r} is multiplied by, but has the shape {stored.shape[:8]}")
    if not is_quantized:
        return _Weight(stored, None, None, transposed)
    scale, zero = tensors.get(f"{name}_scale"), tensors.get(f"{name}_zero_point")
    # Only the matrix of a MatMul may have one step for each column.
    counts = (1, stored.shape[-1]) if transposed else (1,)
    for part in (scale, zero):
        if part is not None and math.prod(part.shape) not in counts:
            raise ValueError(f"the steps of {name[:100]!r} have the shape {part.shape[:8]}")
    if scale is None or scale.code[0] not in "FB" or stored.code not in ("I8", "U8"):
        raise ValueError(f"{name[:100]!r} is not 8-bit integers with a scale")
    return _Weight(stored, scale, zero, transposed)


@dataclass(frozen=True)
class _Node:
    """An operation of the graph: its name, its kind, and the names of the tensors in and out."""

    name: str
    kind: str
    inputs: list[str]
    outputs: list[str]


class _Reader(ProtobufReader):
    """Reads the graph of one file."""

    def graph(self, model: memoryview) -> tuple[dict[str, _Tensor], list[_Node]]:
        """The initializers by name (only those with the type of a weight), and the nodes."""
        tensors: dict[str, _Tensor] = {}
        nodes: list[_Node] = []
        graphs = [as_bytes(value) for number, value in self.fields(model) if number == 7]
        if len(graphs) != 1:
            raise ValueError(f"it has {len(graphs)} graphs")
        for number, value in self.fields(graphs[0]):
            if number == 5:
                name, tensor = self._tensor(as_bytes(value))
                if tensor is not None and tensors.setdefault(name, tensor) is not tensor:
                    raise ValueError(f"it has two tensors {name[:100]!r}")
            elif number == 1:
                nodes.append(self._node(as_bytes(value)))
        return tensors, nodes

    def _node(self, message: memoryview) -> _Node:
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
        for number, value in self.fields(message):
            if number in texts:
                texts[number].append(_text(value))
        return _Node(texts[3][-1], texts[4][-1], texts[1], texts[2])

    def _tensor(self, message: memoryview) -> tuple[str, _Tensor | None]:
        shape: list[int] = []
        integers: list[int] = []
        name, kind, data = "", 0, memoryview(b"")
        for number, value in self.fields(message):
            if number in (1, 5):
                numbers = shape if number == 1 else integers
                numbers += [value] if isinstance(value, int) else self.varints(value)
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == 8:
                name = _text(value)
            elif number in (4, 9, 10):
                data = as_bytes(value)
            elif number == 13 or (number == 14 and value):
                reason = "keeps its weights in another file. Refused; save it as one file."
                raise UnsafeCheckpointError(self.path, reason)
        code = _TYPES.get(kind)
        if code is None:
            return name, None
        size = NUMPY_TYPES[code].itemsize
        # Short tensors of narrow types lie in a list of numbers; negative ones have 64 bits there.
        raw = data if data or not integers else b"".join(n.to_bytes(8, "little")[:size] for n in integers)
        if len(raw) != math.prod(shape) * size:
            raise ValueError(f"tensor {name[:100]!r} has {len(raw)} bytes, unlike its shape {shape[:8]}")
        return name, _Tensor(code, tuple(shape), raw)


def _text(value: int | memoryview) -> str:
    """A name."""
    text = as_bytes(value)
    if len(text) > MAX_NAME_BYTES:
        raise ValueError(f"a name has {len(text)} bytes, more than {MAX_NAME_BYTES}")
    return str(text, "utf-8")
