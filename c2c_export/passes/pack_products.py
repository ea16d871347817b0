"""Pass: products that read the same input become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from c2c_export.passes.graph_parts import add_weight
from c2c_export.passes.linear import Linear, linear_of


class PackProducts(ir.passes.InPlacePass):
    """Rule: MatMul(x, A), MatMul(x, B) become a Split of MatMul(x, [A B]); biases are packed, too.

    Queries, keys and values are such products, and gate and up. A and B are weights with no other
    reader. A backend starts its threads once for what was two or three small products in a decode step.
    Data is packed when the graph is saved, one weight at a time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was packed."""
        graph = model.graph
        groups: dict[ir.Value, list[Linear]] = {}
        for node in graph:
            linear = linear_of(node)
            if linear is not None:
                groups.setdefault(linear.product.inputs[0], []).append(linear)
        groups = {x: linears for x, linears in groups.items() if len(linears) > 1}
        for x, linears in groups.items():
            _pack(graph, x, linears)
        return ir.passes.PassResult(model, bool(groups))


def _pack(graph: ir.Graph, x: ir.Value, linears: Sequence[Linear]) -> None:
    weight = _packed([linear.weight for linear in linears])
    graph.register_initializer(weight)
    nodes = [ir.node("MatMul", [x, weight])]
    if any(linear.bias is not None for linear in linears):
        bias = _packed([linear.bias or _no_bias(linear) for linear in linears])
        graph.register_initializer(bias)
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias]))
    for node, suffix in zip(nodes, ("product", "sum"), strict=False):
        node.outputs[0].name = f"{weight.name}.{suffix}"
        node.outputs[0].type = linears[0].result.type
    sizes = np.array([linear.num_outputs for linear in linears], np.int64)
    split_sizes = add_weight(graph, f"{weight.name}.sizes", ir.tensor(sizes))
    split = ir.node(
        "Split", [nodes[-1].outputs[0], split_sizes], {"axis": -1}, num_outputs=len(linears)
    )
    graph.insert_before(linears[0].product, [*nodes, split])
    for linear, output in zip(linears, split.outputs, strict=True):
        linear.replace(graph, output)


def _no_bias(linear: Linear) -> ir.Value:
    """Zeros, for a layer without a bias among layers that have one."""
    assert linear.weight.const_value is not None
    dtype = linear.weight.const_value.dtype
    zeros = ir.tensor(
        np.zeros(linear.num_outputs, dtype.numpy()), name=f"{linear.weight.name}.zeros"
    )
    return ir.Value(name=zeros.name, const_value=zeros)


def _packed(values: Sequence[ir.Value]) -> ir.Value:
    """The weights side by side: their last axis is that of outputs."""
    tensors = [value.const_value for value in values if value.const_value is not None]
    name = "+".join(str(value.name) for value in values)
    dims = [dim for dim in tensors[0].shape.numpy()]
    dims[-1] = sum(int(tensor.shape[-1]) for tensor in tensors)

    def concatenated() -> ir.Tensor:
        return ir.Tensor(np.concatenate([t.numpy() for t in tensors], axis=-1), name=name)

    dtype, shape = tensors[0].dtype, ir.Shape(dims)
    lazy = ir.LazyTensor(concatenated, dtype=dtype, shape=shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=lazy)
