"""Pass: equal weights are stored once."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import onnx_ir as ir

_SAMPLE = 256  # numbers that are compared before all are

WeightKey = tuple[ir.DataType, tuple[int | ir.SymbolicDim, ...], bytes]


class ShareWeights(ir.passes.InPlacePass):
    """Rule: initializers of equal type, shape and bytes become one.

    Most differ in a few numbers already, and only those that do not are read as a whole.

    onnx-ir's passes of that purpose keep a copy of every weight while they compare (and those that
    hash refuse a constant that does not lie in order), so a model would be held twice.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any initializer was removed."""
        alike: dict[WeightKey, list[ir.Value]] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not value.is_graph_input() and not value.is_graph_output():
                key = (tensor.dtype, tuple(tensor.shape), _digest(tensor, _SAMPLE))
                alike.setdefault(key, []).append(value)
        modified = False
        for values in alike.values():
            kept: dict[bytes, ir.Value] = {}
            for value in values if len(values) > 1 else ():
                assert value.const_value is not None
                first = kept.setdefault(_digest(value.const_value), value)
                if first is not value:
                    value.replace_all_uses_with(first)
                    del model.graph.initializers[str(value.name)]
                    modified = True
        return ir.passes.PassResult(model, modified)


def _digest(tensor: ir.TensorProtocol, num_numbers: int | None = None) -> bytes:
    """Of all numbers, or of about so many that lie far apart."""
    array = tensor.numpy()
    if num_numbers is not None and array.size > num_numbers:
        # By axis: flattening what does not lie in order would copy it.
        apart = math.ceil((array.size / num_numbers) ** (1 / array.ndim))
        array = array[(slice(None, None, apart),) * array.ndim]
    array = np.ascontiguousarray(array)
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
