"""Pass: a bfloat16 graph computes in float32, for backends that have no bfloat16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_FROM, _TO = ir.DataType.BFLOAT16, ir.DataType.FLOAT


class WidenBfloat16(ir.passes.InPlacePass):
    """Rule: every bfloat16 value, weight, constant and cast becomes float32.

    Weights keep the values that bfloat16 gave them. What this leaves unchecked of the graph is the
    rounding between its operators. Data is widened when the graph is saved, one weight at a time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether the graph had any bfloat16."""
        graph = model.graph
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph.all_nodes():
            values += node.outputs
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == _FROM:
                    node.attributes[name] = ir.AttrTensor(name, _widened(attribute.value))
                elif (node.op_type, name) == ("Cast", "to") and attribute.as_int() == _FROM:
                    node.attributes[name] = ir.AttrInt64(name, _TO)
        modified = False
        for value in values:
            if value.dtype == _FROM:
                value.dtype = _TO
                modified = True
            if value.const_value is not None and value.const_value.dtype == _FROM:
                value.const_value = _widened(value.const_value)
        return ir.passes.PassResult(model, modified)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=_TO,
        shape=tensor.shape,
        name=tensor.name,
    )
