"""Pass: a Reshape's target is a constant where the trace knows enough of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from c2c_export.passes.graph_parts import add_weight


class ConstantReshapes(ir.passes.InPlacePass):
    """Rule: Reshape(x, computed target) gets a constant target. A dimension of the result is its size if
    that is a number, 0 (as in the source) if it has the symbol that x has in its place, and -1 for one
    that is neither.

    Nothing is believed of a symbol but that it stands for one number in a shape and in the next one, and
    that this number is not 0. Shapes are those of the trace, so this runs before they are dropped. Post: what computed a target is dead;
    ``RemoveUnusedNodesPass`` takes it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any target became a constant."""
        graph = model.graph
        modified = False
        for node in graph:
            if node.op_type != "Reshape":
                continue
            source, target = node.inputs[:2]
            if source is None or target is None or ir.convenience.get_const_tensor(target):
                continue
            dims = _target(source, node.outputs[0])
            if dims is not None:
                name = "reshape_to_" + "_".join(map(str, dims)).replace("-1", "rest")
                constant = graph.initializers.get(name) or add_weight(
                    graph, name, ir.tensor(np.array(dims, np.int64), name=name)
                )
                node.replace_input_with(1, constant)
                node.attributes.pop("allowzero", None)  # 0 is "as in the source"
                modified = True
        return ir.passes.PassResult(model, modified)


def _target(source: ir.Value, result: ir.Value) -> list[int] | None:
    """None where two dimensions would be -1, or shapes are not known."""
    if source.shape is None or result.shape is None:
        return None
    dims: list[int] = []
    for index, dim in enumerate(result.shape):
        if isinstance(dim, int) and dim > 0:
            dims.append(dim)
        elif (
            index < len(source.shape) and dim == source.shape[index] and dim != ir.SymbolicDim(None)
        ):
            dims.append(0)
        else:
            dims.append(-1)
    return dims if dims.count(-1) <= 1 else None
