"""What a graph computes: multiply-adds of its products with weights, and how many nodes it has.

A gather from an embedding table multiplies nothing, and attention's own products grow with the
context, so neither is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import nn

from c2c_export.passes.graph_parts import head_of

_PRODUCTS = ("MatMul", "Gemm")
# What may lie between a stored weight and the product that reads it.
_ON_THE_WAY = ("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity")


@dataclass(frozen=True)
class ModelCost:
    """A model before it becomes a graph; ``operations``: multiply-adds a token, LM head included."""

    num_parameters: int
    operations: int


@dataclass(frozen=True)
class GraphCost:
    """``operations``: multiply-adds a token; ``head_operations``: those of the LM head, once a call
    as logits are of the last position only; ``num_nodes``: nodes of the graph."""

    operations: int
    head_operations: int
    num_nodes: int


def graph_cost(path: Path) -> GraphCost:
    """The cost of a saved graph. Only shapes are read, no weights."""
    graph = ir.load(path).graph
    head = head_of(graph)
    operations, head_operations = 0, 0
    for node in graph:
        if node is head:
            head_operations = _multiply_adds(node)
        else:
            operations += _multiply_adds(node)
    return GraphCost(operations, head_operations, len(graph))


def linear_operations(modules: Iterable[nn.Module]) -> int:
    """Multiply-adds a token of all ``nn.Linear`` in ``modules``; one listed twice runs twice."""
    return sum(
        part.in_features * part.out_features
        for module in modules
        for part in module.modules()
        if isinstance(part, nn.Linear)
    )


def _multiply_adds(node: ir.Node) -> int:
    if node.op_type == "MatMulNBits":
        return int(node.attributes["K"].as_int() * node.attributes["N"].as_int())
    if node.op_type not in _PRODUCTS:
        return 0
    return next((size for value in node.inputs[:2] if (size := _weight_size(value))), 0)


def _weight_size(value: ir.Value | None) -> int:
    """Elements of the matrix that ``value`` is made of; 0 if it is computed from inputs."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in _ON_THE_WAY:
            return 0
        value = node.inputs[0]
    if value is None or value.const_value is None:
        return 0
    return math.prod(value.const_value.shape.numpy())
