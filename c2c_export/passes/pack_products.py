"""Pass: products that read the same input become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class _Linear:
    """MatMul(x, weight), and the Add of a bias after it if there is one."""

    product: ir.Node
    weight: ir.Value  # [inputs, outputs]
    add: ir.Node | None
    bias: ir.Value | None

    @property
    def result(self) -> ir.Value:
        """What stands for the linear layer's output."""
        return (self.add or self.product).outputs[0]

    @property
    def num_outputs(self) -> int:
        """Features of the result."""
        assert self.weight.const_value is not None
        return int(self.weight.const_value.shape[1])


class PackProducts(ir.passes.InPlacePass):
    """Rule: MatMul(x, A), MatMul(x, B) become a Split of MatMul(x, [A B]); biases are packed, too.

    Queries, keys and values are such products, and gate and up. A and B are weights with no other
    reader. A backend starts its threads once for what was two or three small products in a decode step.
    Data is packed when the graph is saved, one weight at a time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was packed."""
        graph = model.graph
        groups: dict[ir.Value, list[_Linear]] = {}
        for node in graph:
            linear = _linear_of(node)
            if linear is not None:
                groups.setdefault(linear.product.inputs[0], []).append(linear)
        groups = {x: linears for x, linears in groups.items() if len(linears) > 1}
        for x, linears in groups.items():
            _pack(graph, x, linears)
        return ir.passes.PassResult(model, bool(groups))


def _linear_of(node: ir.Node) -> _Linear | None:
    if node.op_type != "MatMul" or node.inputs[0] is None:
        return None
    weight, result = node.inputs[1], node.outputs[0]
    if weight is None or not _is_private(weight, rank=2):
        return None
    add = next(iter(result.consumers())) if len(result.uses()) == 1 else None
    if add is not None and add.op_type == "Add" and not result.is_graph_output():
        bias = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
        if bias is not None and _is_private(bias, rank=1):
            return _Linear(node, weight, add, bias)
    return _Linear(node, weight, None, None)


def _is_private(value: ir.Value, rank: int) -> bool:
    return (
        value.is_initializer()
        and value.const_value is not None
        and len(value.const_value.shape) == rank
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def _pack(graph: ir.Graph, x: ir.Value, linears: Sequence[_Linear]) -> None:
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
    sizes = ir.tensor(
        np.array([linear.num_outputs for linear in linears], np.int64), name=f"{weight.name}.sizes"
    )
    split_sizes = ir.Value(
        name=sizes.name, shape=sizes.shape, type=ir.TensorType(sizes.dtype), const_value=sizes
    )
    graph.register_initializer(split_sizes)
    split = ir.node(
        "Split", [nodes[-1].outputs[0], split_sizes], {"axis": -1}, num_outputs=len(linears)
    )
    graph.insert_before(linears[0].product, [*nodes, split])
    for linear, output in zip(linears, split.outputs, strict=True):
        old = linear.result
        output.name, output.type, output.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        dead = [linear.add, linear.product] if linear.add is not None else [linear.product]
        graph.remove([node for node in dead if node is not None], safe=True)
        for value in (linear.weight, linear.bias):
            if value is not None and value.name is not None:
                del graph.initializers[value.name]


def _no_bias(linear: _Linear) -> ir.Value:
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
