"""The layers of a model that compute alike are traced once, and repeated in the graph.

A trace takes a second a layer, and layers of one kind differ in nothing but their weights and caches. So
a model is traced with the first layer of each kind alone, between two marks in the graph, and before any
pass runs the others are made from what lies between the marks: the graph is that of a whole trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from c2c_export.graphs.repeat_parts import (
    add_alike,
    outputs_named,
    parameters_of,
    part_between,
    repeat_part,
    values_named,
)
from c2c_runtime.bundle import names

_DOMAIN = "c2c"
_BEGIN, _END = "LayerBegin", "LayerEnd"
_NUMBER = "number"
Hook = Callable[..., object]


@contextmanager
def first_of_each_kind(layers: nn.ModuleList, kinds: Sequence[int]) -> Iterator[None]:
    """While it lasts, a decoder computes the first layer of each kind only, and its graph says where
    each begins and ends.

    ``kinds``: for each layer the number of the first of its kind.
    """
    whole = list(layers)
    handles = []
    for number, first in enumerate(kinds):
        if number == first:
            handles.append(whole[number].register_forward_pre_hook(_begin(number)))
            handles.append(whole[number].register_forward_hook(_end(number)))
        else:
            layers[number] = _LeftOut()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for number, layer in enumerate(whole):
            layers[number] = layer


def repeat_layers(
    model: ir.Model, module: nn.Module, layers: nn.ModuleList, kinds: Sequence[int]
) -> None:
    """Make of the graph of the first layer of each kind, in place, that of all ``layers`` of ``module``.

    Weights are those of ``module``, and not copied. New inputs and outputs come last.
    """
    graph = model.graph
    root = next(name for name, found in module.named_modules() if found is layers)
    weights = parameters_of(module)
    begins, ends = _marks(graph, _BEGIN), _marks(graph, _END)
    parts = {
        first: part_between(
            graph,
            [begins[first].outputs[0], *values_named(graph, _own_names(root, first, weights))],
            [ends[first].inputs[0], *outputs_named(graph, _presents(first))],
        )
        for number, first in enumerate(kinds)
        if number != first
    }
    hidden, after = begins[0].inputs[0], begins[0]
    last = ends.get(max(begins))  # none where only keys and values of the last layer are needed
    behind = [] if last is None else list(last.outputs[0].uses())
    for number, first in enumerate(kinds):
        if number == first:
            begins[number].replace_input_with(0, hidden)
            if number in ends:
                hidden, after = ends[number].outputs[0], ends[number]
            continue
        own = _own_names(root, first, weights), _own_names(root, number, weights)
        renamed = dict(zip(*own, strict=True))
        given = {begins[first].outputs[0]: hidden} | {
            value: add_alike(graph, value, renamed[str(value.name)], weights)
            for value in parts[first].own[1:]
        }
        (hidden, *presents), after = repeat_part(parts[first], given, after, f"layer_{number}")
        for name, present in zip(_presents(number), presents, strict=True):
            present.name = name
            graph.outputs.append(present)
    for use in behind:
        use.node.replace_input_with(use.idx, hidden)
    for mark in (*begins.values(), *ends.values()):
        mark.outputs[0].replace_all_uses_with(mark.inputs[0])
        graph.remove(mark, safe=True)


def _own_names(root: str, number: int, weights: Iterable[str]) -> list[str]:
    """What only one layer reads: its caches, its weights."""
    prefix = f"{root}.{number}."
    pasts = [names.past(number, kind) for kind in names.KINDS]
    return [*pasts, *(name for name in weights if name.startswith(prefix))]


def _presents(number: int) -> list[str]:
    return [names.present(number, kind) for kind in names.KINDS]


class _LeftOut(nn.Module):
    """In the place of a layer that is not traced."""

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        return hidden


def _begin(number: int) -> Hook:
    return lambda _, args: (_mark(_BEGIN, number, args[0]), *args[1:])


def _end(number: int) -> Hook:
    return lambda _, __, hidden: _mark(_END, number, hidden)


def _mark(op_type: str, number: int, hidden: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{op_type}",
        [hidden],
        attrs={_NUMBER: number},
        dtype=hidden.dtype,
        shape=hidden.shape,
        version=1,
    )


def _marks(graph: ir.Graph, op_type: str) -> dict[int, ir.Node]:
    return {
        node.attributes[_NUMBER].as_int(): node
        for node in graph
        if (node.domain, node.op_type) == (_DOMAIN, op_type)
    }
