"""Pass: equal weights are stored once."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

WeightKey = tuple[ir.DataType, tuple[int | ir.SymbolicDim, ...], bytes]


class ShareWeights(ir.passes.InPlacePass):
    """Rule: initializers of equal type, shape and bytes become one.

    onnx-ir's passes of that purpose keep a copy of every weight while they compare (and those that
    hash refuse a constant that does not lie in order), so a model would be held twice.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any initializer was removed."""
        kept: dict[WeightKey, ir.Value] = {}
        modified = False
        for name, value in list(model.graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            key = (tensor.dtype, tuple(tensor.shape), _digest(tensor))
            first = kept.setdefault(key, value)
            if first is not value:
                value.replace_all_uses_with(first)
                del model.graph.initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified)


def _digest(tensor: ir.TensorProtocol) -> bytes:
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
