"""The layers of a Fuser as functions of its graph: layers that compute alike are traced once.

A trace takes seconds a layer, and all layers of a Fuser differ in nothing but their weights. So the
graph is traced with a call in the place of each layer, which takes the weights as inputs; what is
called is traced by itself and inlined by the first pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from c2c_export.fusers.fuser import FuserLayer
from c2c_export.graphs.export_graph import Signature, trace
from c2c_runtime.bundle import names

_DOMAIN = "c2c"
# What a layer reads: of which model, and the kind of cache.
Read = tuple[str, names.Kind]
_READS: tuple[Read, ...] = tuple(
    (model, kind) for model in ("sharer", "receiver") for kind in names.KINDS
)


@dataclass(frozen=True)
class _Function:
    """Layers that compute alike: one of them, which stands for all, and what is traced of it."""

    name: str
    layer: FuserLayer
    reads: tuple[Read, ...]
    writes: tuple[names.Kind, ...]
    caches: tuple[Tensor, ...]  # examples of ``reads``


class LayerFunctions:
    """The functions that one Fuser graph calls, found while it is traced."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._functions: dict[Hashable, _Function] = {}

    def call(
        self, layer: FuserLayer, caches: Mapping[Read, Tensor | None]
    ) -> dict[names.Kind, Tensor]:
        """What ``layer`` makes of a section, for each kind that it changes: in the traced graph a call.

        ``caches``: [batch, kv_heads, tokens, head_dim] each, None where there is none.
        """
        given: dict[Read, Tensor] = {}
        for read in _READS:
            cache = caches[read]
            if read[1] not in layer.reads:
                continue
            if cache is None:
                raise ValueError(f"a Fuser layer reads {' '.join(read)}, which is not there")
            given[read] = cache
        weights = _weights(layer)
        sizes = [(name, tuple(weight.shape), weight.dtype) for name, weight in weights.items()]
        heads = [(cache.shape[1], cache.shape[3], cache.dtype) for cache in given.values()]
        alike = (type(layer), layer.facts, tuple(sizes), tuple(heads))
        if alike not in self._functions:
            examples = tuple(
                torch.zeros(2, int(heads), 5, int(size), dtype=dtype)
                for heads, size, dtype in heads
            )
            writes = tuple(kind for kind in names.KINDS if kind in layer.writes)
            name = f"fuser_layer_{len(self._functions)}"
            self._functions[alike] = _Function(name, layer, tuple(given), writes, examples)
        function = self._functions[alike]
        changed = [given["receiver", kind] for kind in function.writes]
        outputs = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{function.name}",
            [*given.values(), *weights.values()],
            dtypes=[cache.dtype for cache in changed],
            shapes=[cache.shape for cache in changed],
            version=1,
        )
        return dict(zip(function.writes, outputs, strict=True))

    def traced(self) -> Iterator[ir.Function]:
        """What the calls of the traced graph stand for."""
        for function in self._functions.values():
            model = trace(_Weightless(function), _signature(function), self._opset)
            yield _as_function(model, function.name)


class _Weightless(nn.Module):
    """A layer whose weights are inputs. It is kept where torch does not see that it has some."""

    def __init__(self, function: _Function) -> None:
        super().__init__()
        self._hidden = (function,)

    def forward(self, caches: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        (function,) = self._hidden
        given = dict(zip(function.reads, caches, strict=True))
        named = dict(zip(_weights(function.layer), weights, strict=True))
        results = functional_call(function.layer, named, tuple(given.get(read) for read in _READS))
        by_kind = dict(zip(names.KINDS, results, strict=True))
        return [by_kind[kind] for kind in function.writes]


def _weights(layer: FuserLayer) -> dict[str, Tensor]:
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def _signature(function: _Function) -> Signature:
    weights = [weight.detach() for weight in _weights(function.layer).values()]
    section = {0: Dim("batch", min=1), 2: Dim("tokens", min=1)}
    return Signature(
        args=(list(function.caches), weights),
        dynamic_shapes=([section] * len(function.caches), [{}] * len(weights)),
        input_names=[
            *("_".join(read) for read in function.reads),
            *(f"weight_{number}" for number in range(len(weights))),
        ],
        output_names=[f"fused_{kind}" for kind in function.writes],
    )


def _as_function(model: ir.Model, name: str) -> ir.Function:
    """A function holds no initializers, and calls none here: constants become nodes."""
    InlinePass()(model)
    graph = model.graph
    for value in list(graph.initializers.values()):
        constant = ir.node("Constant", [], {"value": value.const_value}, name=value.name)
        constant.outputs[0].name = value.name
        constant.outputs[0].type = value.type
        graph.insert_before(graph[0], constant)
        value.replace_all_uses_with(constant.outputs[0])
        del graph.initializers[str(value.name)]
    return ir.Function(_DOMAIN, name, graph=graph, attributes=[])
