"""Pass: products read their weights as they are stored, without a Transpose before them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from c2c_export.passes.graph_parts import add_weight, is_private

_ROWS = 64  # rows that a copy reads at a time: all at once it takes 2 to 6 times as long


class TransposeWeights(ir.passes.InPlacePass):
    """Rule: Transpose(W) of a matrix W that is a weight and has no other reader becomes a weight.

    The tracer writes a linear layer as MatMul(x, Transpose(W)). Without this a backend transposes
    every weight when it loads the graph and keeps both. A weight with other readers (a tied
    embedding) is left alone, so that it stays stored once. What folding constants has transposed
    already is a view of the weight, and laid in order here. Data is transposed when the graph is
    saved, one weight at a time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any Transpose was removed."""
        graph = model.graph
        modified = False
        for node in list(graph):
            weight = node.inputs[0] if node.op_type == "Transpose" else None
            if weight is None or not is_private(weight, rank=2):
                continue
            source = weight.const_value
            assert source is not None
            name = f"{weight.name}.T"
            value = add_weight(graph, name, _lazy(source.numpy, source.dtype, source.shape, name))
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
            del graph.initializers[weight.name]
            modified = True
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.Tensor) and len(tensor.shape) == 2:
                flags = tensor.numpy().flags
                if flags.f_contiguous and not flags.c_contiguous:
                    value.const_value = _in_order(tensor)
                    modified = True
        return ir.passes.PassResult(model, modified)


def _in_order(view: ir.Tensor) -> ir.LazyTensor:
    """What folding left as a view of another weight: a file is written from it in many small pieces."""
    shape = ir.Shape(reversed(view.shape.numpy()))
    return _lazy(lambda: view.numpy().T, view.dtype, shape, str(view.name))


def _lazy(
    source: Callable[[], np.ndarray], dtype: ir.DataType, shape: ir.Shape, name: str
) -> ir.LazyTensor:
    """The transpose of ``source``, which has that ``shape``."""
    return ir.LazyTensor(
        lambda: ir.Tensor(transposed(source()), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(reversed(shape.numpy())),
        name=name,
    )


def transposed(matrix: np.ndarray) -> np.ndarray:
    """The transpose of ``matrix``, in order."""
    result = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), _ROWS):
        result[:, row : row + _ROWS] = matrix[row : row + _ROWS].T
    return result
