"""Linear layers as passes see them: a product with a weight, and the sum with a bias after it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from c2c_export.passes.graph_parts import is_private, stand_in


@dataclass(frozen=True)
class Linear:
    """MatMul(x, weight), and the Add of a bias after it if there is one. Neither weight nor bias has
    another reader."""

    product: ir.Node
    weight: ir.Value  # [inputs, outputs]
    add: ir.Node | None
    bias: ir.Value | None  # [outputs]

    @property
    def result(self) -> ir.Value:
        """What stands for the layer's output."""
        return (self.add or self.product).outputs[0]

    @property
    def num_outputs(self) -> int:
        """Features of the result."""
        assert self.weight.const_value is not None
        return int(self.weight.const_value.shape[1])

    def replace(self, graph: ir.Graph, new: ir.Value) -> None:
        """Let the readers of the result read ``new``; the nodes and their weights go."""
        stand_in(new, self.result)
        nodes = (self.add, self.product)
        graph.remove([node for node in nodes if node is not None], safe=True)
        for value in (self.weight, self.bias):
            if value is not None and value.name is not None:
                del graph.initializers[value.name]


def linear_of(node: ir.Node) -> Linear | None:
    """The linear layer that a MatMul begins; None if its second input is no weight of its own."""
    if node.op_type != "MatMul" or node.inputs[0] is None:
        return None
    weight, result = node.inputs[1], node.outputs[0]
    if weight is None or not is_private(weight, rank=2):
        return None
    add = next(iter(result.consumers())) if len(result.uses()) == 1 else None
    if add is not None and add.op_type == "Add" and not result.is_graph_output():
        bias = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
        if bias is not None and is_private(bias, rank=1):
            return Linear(node, weight, add, bias)
    return Linear(node, weight, None, None)
