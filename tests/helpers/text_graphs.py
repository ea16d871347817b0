"""Graphs in ONNX's text form, for tests of single passes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

_HEADER = '<ir_version: 10, opset_import: ["" : 24, "com.microsoft" : 1]>'


def model_of(text: str, **weights: np.ndarray) -> ir.Model:
    """A graph in ONNX's text form, with weights by name."""
    model = ir.from_proto(onnx.parser.parse_model(f"{_HEADER} {text}"))
    for name, array in weights.items():
        tensor = ir.tensor(array, name=name)
        value = next(v for n in model.graph for v in n.inputs if v is not None and v.name == name)
        value.shape, value.type = tensor.shape, ir.TensorType(tensor.dtype)
        value.const_value = tensor
        model.graph.register_initializer(value)
    return model


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, feeds)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)
