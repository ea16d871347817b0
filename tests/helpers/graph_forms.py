"""What two saved graphs have in common when the names inside them are left out of account."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir


def graph_form(path: Path) -> list[tuple[object, ...]]:
    """Inputs, outputs, weights and nodes in their order; a value inside is known by where it is made,
    and a dimension that is read from an input by its name: batch is batch, whatever cache it is read of.

    Equal for graphs that compute the same in the same steps.
    """
    graph = ir.load(path).graph
    ids: dict[ir.Value | None, object] = {None: None}
    ids |= {value: ("input", value.name) for value in graph.inputs}
    form: list[tuple[object, ...]] = [_declared(value) for value in (*graph.inputs, *graph.outputs)]
    for number, (name, value) in enumerate(graph.initializers.items()):
        ids[value] = ("weight", number)
        assert value.const_value is not None
        digest = hashlib.sha256(value.const_value.tobytes()).hexdigest()
        # A weight of a model has a name of its own, a constant that of the value that it was.
        known = name if ".weight" in name or ".bias" in name else ""
        form.append((known, value.dtype, str(value.shape), digest))
    for number, node in enumerate(graph):
        attributes = sorted((name, _plain(attr.value)) for name, attr in node.attributes.items())
        inputs = tuple(ids[value] for value in node.inputs)
        if node.op_type == "Shape" and node.inputs[0].is_graph_input():
            dims = [str(dim) for dim in node.inputs[0].shape]
            inputs = tuple(
                dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end")]
            )
            attributes = []
        made = tuple(bool(value.name) for value in node.outputs)
        form.append((node.domain, node.op_type, tuple(attributes), inputs, made))
        ids |= {value: (number, index) for index, value in enumerate(node.outputs)}
    return [*form, tuple(ids[value] for value in graph.outputs)]


def _declared(value: ir.Value) -> tuple[object, ...]:
    return value.name, value.dtype, str(value.shape)


def _plain(value: object) -> object:
    return value.tobytes() if isinstance(value, ir.TensorProtocol) else value
