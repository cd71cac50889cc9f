"""Runs the real answerai-colbert-small-v1 in onnxruntime: python make_onnx_reference.py FOLDER

FOLDER is what examples/fetch_models.py makes. Writes reference/answerai-onnx.npz. The graph rounds activations to
8 bits before each product of integers. `vectors` come from the same graph with each such product replaced by one
of floats, with the same weights; `rounded_vectors` from the graph as it is.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent
CLS, DOCUMENT, SEP = 101, 2, 102


def with_float_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a MatMul in place of each MatMulInteger, its Cast and its Mul."""
    graph = onnx.ModelProto.FromString(model.SerializeToString()).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    writers = {name: node for node in graph.node for name in node.output}
    replaced, gone = {}, set()
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        cast = readers[node.output[0]]
        scaled = readers[cast.output[0]]
        rounded = writers[node.input[0]]
        assert (cast.op_type, scaled.op_type, rounded.op_type) == ("Cast", "Mul", "DynamicQuantizeLinear")
        name = node.input[1].removesuffix("_quantized")
        integers = tensors[node.input[1]].astype(np.float32) - np.float32(tensors[f"{name}_zero_point"])
        graph.initializer.append(
            numpy_helper.from_array(integers * tensors[f"{name}_scale"], f"{name}_float")
        )
        inputs = [rounded.input[0], f"{name}_float"]
        replaced[scaled.name] = helper.make_node("MatMul", inputs, list(scaled.output), name=node.name)
        gone |= {node.name, cast.name, scaled.name}
    nodes = [replaced.get(node.name, node) for node in graph.node if node.name not in gone - replaced.keys()]
    del graph.node[:]
    graph.node.extend(nodes)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def main(folder: Path) -> None:
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))["documents"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    projection = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    # Cut at 300 tokens as the model does.
    ids = [
        [CLS, DOCUMENT, *tokenizer.encode(text, add_special_tokens=False).ids[:297], SEP] for text in texts
    ]
    model = onnx.load(folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    arrays = {}
    for key, graph in (("vectors", with_float_products(model)), ("rounded_vectors", model)):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        rows = []
        for tokens in ids:
            batch = np.array([tokens])
            feed = {"input_ids": batch, "attention_mask": batch * 0 + 1, "token_type_ids": batch * 0}
            projected = session.run(["last_hidden_state"], feed)[0][0] @ projection.T
            rows.append(projected / np.linalg.norm(projected, axis=1, keepdims=True))
        arrays[key] = np.concatenate(rows)
    arrays["rounded_vectors"] = arrays["rounded_vectors"].astype(np.float16)
    arrays["ids"] = np.concatenate(ids)
    arrays["lengths"] = np.array([len(tokens) for tokens in ids])
    packages = ("onnx", "onnxruntime", "numpy", "tokenizers")
    arrays["versions"] = np.array(", ".join(f"{name} {version(name)}" for name in packages))
    np.savez_compressed(HERE / "reference" / "answerai-onnx.npz", **arrays)
    cosines = (arrays["vectors"] * arrays["rounded_vectors"].astype(np.float32)).sum(axis=1)
    print(
        f"1 - cosine of the rounded vectors: {1 - cosines.mean():.4f} on average, at most {1 - cosines.min():.4f}"
    )


main(Path(sys.argv[1]))
