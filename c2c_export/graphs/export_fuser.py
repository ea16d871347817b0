"""The Fuser graph: a section of the Sharers' and the Receiver's caches in, the fused section written
into the Receiver's caches.

A closed gate leaves nothing: neither the branch, nor the caches that only it would read or write.
Several Sharers are combined here: ``sequential`` lets each fuse into what the one before left;
``parallel`` adds what each changes to the clean cache.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from c2c_export.fusers.fuser import FuserLayer
from c2c_export.graphs.export_graph import Signature, cache_shape, example_cache, export_graph
from c2c_export.graphs.fuser_functions import LayerFunctions, Read
from c2c_export.lowering.convert_weights import convert_weights
from c2c_export.lowering.graph_options import ORT, GraphOptions, Lowering
from c2c_export.lowering.operators import fuse_norms
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, Pair

Source = tuple[int, int, names.Kind]  # Sharer number (from 1), its layer, kind
Target = tuple[int, names.Kind]  # Receiver layer, kind


class FuserGraph(nn.Module):
    """slots, Sharer caches, Receiver caches -> Receiver caches with the section fused.

    ``fusers``: for each Sharer, its Fuser layer of every Receiver layer it is linked to.
    """

    def __init__(
        self, pair: Pair, fusers: Sequence[dict[int, FuserLayer]], lowering: Lowering
    ) -> None:
        super().__init__()
        self.lowering = lowering
        self.functions = LayerFunctions(lowering.opset)
        self.parallel = pair.multi_sharer == "parallel"
        self.modules_by_layer: dict[int, list[tuple[int, int, FuserLayer]]] = {}
        for number, (sharer, fuser) in enumerate(zip(pair.sharers, fusers, strict=True), start=1):
            for link in sharer.links:
                if link.key_gate or link.value_gate:
                    found = self.modules_by_layer.setdefault(link.receiver_layer, [])
                    found.append((number, link.sharer_layer, fuser[link.receiver_layer]))
        self.registered = nn.ModuleList(
            module for links in self.modules_by_layer.values() for _, _, module in links
        )
        # What the graph reads and writes, each once, in a fixed order.
        links = [(layer, *link) for layer, found in self.modules_by_layer.items() for link in found]
        self.sources: list[Source] = sorted(
            {(number, source, kind) for _, number, source, module in links for kind in module.reads}
        )
        self.targets: list[Target] = sorted(
            {(layer, kind) for layer, _, _, module in links for kind in module.writes}
        )
        self.reads: list[Target] = sorted(
            {(layer, kind) for layer, _, _, module in links for kind in module.reads}
            | set(self.targets)
        )

    def forward(
        self,
        slots: Tensor,
        sharer_slots: list[Tensor],
        past: list[Tensor],
        sharer_caches: list[Tensor],
        enabled: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """``past`` and ``sharer_caches`` follow ``reads`` and ``sources``; shapes as in
        ``c2c_runtime.bundle.names``. ``enabled`` is empty for a single Sharer."""
        caches = dict(zip(self.reads, past, strict=True))
        clean = {target: cache.index_select(2, slots) for target, cache in caches.items()}
        sections = {
            source: cache.index_select(2, sharer_slots[source[0] - 1])
            for source, cache in zip(self.sources, sharer_caches, strict=True)
        }
        fused: dict[Target, Tensor] = {}
        for layer in self.modules_by_layer:
            fused |= self._fuse_layer(layer, clean, sections, enabled)
        write = self.lowering.row_writer(slots[:1].expand(past[0].shape[0]))
        return [write(caches[target], fused[target]) for target in self.targets]

    def _fuse_layer(
        self,
        layer: int,
        clean: dict[Target, Tensor],
        sections: dict[Source, Tensor],
        enabled: Sequence[Tensor],
    ) -> dict[Target, Tensor]:
        """What all Sharers make of one layer's section, each [batch, kv_heads, tokens, head_dim]."""
        current = {kind: clean[layer, kind] for kind in names.KINDS if (layer, kind) in clean}
        start = dict(current)
        for number, source, module in self.modules_by_layer[layer]:
            base = start if self.parallel else current
            caches: dict[Read, Tensor | None] = {}
            for kind in names.KINDS:
                caches["sharer", kind] = sections.get((number, source, kind))
                caches["receiver", kind] = base.get(kind)
            for kind, result in self.functions.call(module, caches).items():
                # Changes add up in float32, and the sum is rounded once.
                fused = (
                    current[kind].float() + (result.float() - start[kind].float())
                    if self.parallel
                    else result
                )
                if enabled:
                    fused = torch.where(enabled[number - 1], fused, current[kind])
                current[kind] = fused
        return {(layer, kind): tensor.to(start[kind].dtype) for kind, tensor in current.items()}


def export_fuser(
    pair: Pair,
    fusers: Sequence[dict[int, FuserLayer]],
    directory: Path,
    options: GraphOptions = ORT,
) -> GraphSpec | None:
    """Write the Fuser graph. None if every gate is closed: then there is nothing to compute.

    The layers stay as they are; for less than float32 they are copied, one at a time.
    """
    if options.dtype != torch.float32:
        fusers = [_converted(fuser, options.dtype) for fuser in fusers]
    graph = FuserGraph(pair, fusers, options.lowering)
    if not graph.targets:
        return None
    signature = _signature(pair, graph, options)
    return export_graph(graph, signature, names.FUSER, directory, options, graph.functions.traced)


def _converted(fuser: dict[int, FuserLayer], dtype: torch.dtype) -> dict[int, FuserLayer]:
    """Copies of a Fuser's layers in ``dtype``, their norms in float32; layers that are one stay one."""
    copies: dict[int, FuserLayer] = {}
    for module in fuser.values():
        if id(module) not in copies:
            copied = copy.deepcopy(module)
            fuse_norms(copied)
            convert_weights(copied, dtype)
            copies[id(module)] = copied
    return {layer: copies[id(module)] for layer, module in fuser.items()}


def _signature(pair: Pair, graph: FuserGraph, options: GraphOptions) -> Signature:
    tokens = Dim("tokens", min=1)
    cache_dims = cache_shape(options)
    num_sharers = len(pair.sharers)

    past = [example_cache(pair.receiver, options) for _ in graph.reads]
    sharer_caches = [
        example_cache(pair.sharers[number - 1].dims, options) for number, _, _ in graph.sources
    ]
    slots = torch.arange(5)
    enabled = [torch.ones(1, dtype=torch.bool) for _ in range(num_sharers) if num_sharers > 1]
    numbers = range(1, num_sharers + 1)
    args: list[object] = [slots, [slots.clone() for _ in numbers], past, sharer_caches]
    shapes: list[object] = [
        {0: tokens},
        [{0: tokens}] * num_sharers,
        [cache_dims] * len(past),
        [cache_dims] * len(sharer_caches),
    ]
    if enabled:  # an empty list would cost all dimensions their names
        args.append(enabled)
        shapes.append([{}] * len(enabled))
    return Signature(
        args=tuple(args),
        dynamic_shapes=tuple(shapes),
        input_names=[
            names.SLOTS,
            *(names.sharer_slots(number) for number in numbers),
            *(names.past(layer, kind) for layer, kind in graph.reads),
            *(names.sharer_cache(number, layer, kind) for number, layer, kind in graph.sources),
            *(names.sharer_enabled(number) for number in numbers if enabled),
        ],
        output_names=[names.present(layer, kind) for layer, kind in graph.targets],
    )
