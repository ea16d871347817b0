"""What passes look for in a graph and put into it: weights, the LM head, one node for another."""

from __future__ import annotations

import onnx_ir as ir

from c2c_runtime.bundle import names

_PRODUCTS = ("MatMul", "Gemm", "MatMulNBits")
_MIN_ELEMENTS = 1024


def is_matrix(value: ir.Value) -> bool:
    """Whether it is a weight of two dimensions, and large enough to be worth quantising."""
    tensor = value.const_value
    return (
        value.is_initializer()
        and tensor is not None
        and len(tensor.shape) == 2
        and tensor.size >= _MIN_ELEMENTS
        and tensor.dtype.is_floating_point()
    )


def is_private(value: ir.Value, rank: int) -> bool:
    """Whether it is a weight of ``rank`` dimensions with one reader."""
    return (
        value.is_initializer()
        and value.const_value is not None
        and len(value.const_value.shape) == rank
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def head_of(graph: ir.Graph) -> ir.Node | None:
    """The product that the logits come from."""
    value = next((value for value in graph.outputs if value.name == names.LOGITS), None)
    while value is not None:
        node = value.producer()
        if node is None or node.op_type in _PRODUCTS:
            return node
        value = node.inputs[0] if node.inputs else None
    return None


def add_weight(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a constant under ``name``."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def stand_in(new: ir.Value, old: ir.Value) -> None:
    """Let the readers of ``old`` read ``new``, under the same name."""
    new.name, new.type, new.shape = old.name, old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def take_over(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` into the place of ``old``; each has one result."""
    graph.insert_before(old, new)
    stand_in(new.outputs[0], old.outputs[0])
    graph.remove(old, safe=True)
