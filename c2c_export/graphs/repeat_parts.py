"""Parts of a traced graph, repeated with other inputs and weights.

A part is what lies between values that are its own (inputs, weights) and its results. What depends on
nothing of its own (positions, masks, tables of angles) is shared by all its copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """``nodes``, in the graph's order, make ``results`` of the values in ``own`` and of shared ones."""

    own: tuple[ir.Value, ...]
    results: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]


def part_between(graph: ir.Graph, own: Iterable[ir.Value], results: Iterable[ir.Value]) -> Part:
    """The part of ``graph`` that makes ``results`` of ``own``, and of what is shared.

    The shape of an input is shared: its dimensions that are symbols are the same for all copies.
    """
    own, results = tuple(own), tuple(results)
    reached: dict[ir.Node, None] = {}
    dependent = set(own)
    for node in graph:
        is_shape = node.op_type == "Shape" and node.inputs[0] in graph.inputs
        if not is_shape and not dependent.isdisjoint(node.inputs):
            reached[node] = None
            dependent.update(node.outputs)
    needed: set[ir.Node] = set()
    asked = list(results)
    while asked:
        value = asked.pop()
        node = None if value in own else value.producer()
        if node is not None and node in reached and node not in needed:
            needed.add(node)
            asked += [value for value in node.inputs if value is not None]
    return Part(own, results, tuple(node for node in reached if node in needed))


def repeat_part(
    part: Part, given: Mapping[ir.Value, ir.Value], after: ir.Node, label: str
) -> tuple[list[ir.Value], ir.Node]:
    """Insert behind ``after`` what ``part`` computes if its own values are others.

    ``label`` begins the names of the copies. Returns the results, and the last node inserted.
    """
    assert after.graph is not None
    values = dict(given)
    for node in part.nodes:
        copied = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else values.get(value, value) for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=f"{label}.{node.name}",
        )
        for old, new in zip(node.outputs, copied.outputs, strict=True):
            new.name, new.type = f"{label}.{old.name}" if old.name else old.name, old.type
            new.shape = None if old.shape is None else old.shape.copy()
            values[old] = new
        after.graph.insert_after(after, copied)
        after = copied
    return [values.get(result, result) for result in part.results], after


def values_named(graph: ir.Graph, wanted: Iterable[str]) -> Iterator[ir.Value]:
    """The inputs and weights of ``graph`` that have one of these names."""
    by_name = {str(value.name): value for value in graph.inputs} | dict(graph.initializers)
    return (by_name[name] for name in wanted if name in by_name)


def outputs_named(graph: ir.Graph, wanted: Iterable[str]) -> Iterator[ir.Value]:
    """The outputs of ``graph`` that have one of these names."""
    by_name = {str(value.name): value for value in graph.outputs}
    return (by_name[name] for name in wanted if name in by_name)


def add_alike(
    graph: ir.Graph, like: ir.Value, name: str, weights: Mapping[str, Tensor]
) -> ir.Value:
    """The graph's input or weight called ``name``. If it is not there yet: one of the type and shape of
    ``like``, a weight with what ``weights`` holds under that name, which is not copied."""
    for value in values_named(graph, [name]):
        return value
    value = ir.Value(name=name, type=like.type, shape=like.shape)
    if like.is_initializer():
        value.const_value = TorchTensor(weights[name].detach(), name=name)
        graph.register_initializer(value)
    else:
        graph.inputs.append(value)
    return value


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name: as a trace orders them. What has two names has both."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def put_in_order(
    graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str], weights: Iterable[str]
) -> None:
    """Inputs, outputs and weights as they are listed; weights that are not come last."""
    for values, order in ((graph.inputs, inputs), (graph.outputs, outputs)):
        by_name = {value.name: value for value in values}
        values.clear()
        values.extend([by_name[name] for name in order])
    held = dict(graph.initializers)
    graph.initializers.clear()
    for name in dict.fromkeys([*(name for name in weights if name in held), *held]):
        graph.register_initializer(held[name])
