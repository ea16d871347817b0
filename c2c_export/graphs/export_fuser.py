"""The Fuser graph: a section of the Sharers' and the Receiver's caches in, the fused section written
into the Receiver's caches.

A closed gate leaves nothing: neither the branch, nor the caches that only it would read or write.
Several Sharers are combined here: ``sequential`` lets each fuse into what the one before left;
``parallel`` adds what each changes to the clean cache.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from c2c_export.fusers.fuser import FuserLayer
from c2c_export.graphs.export_graph import (
    Signature,
    cache_shape,
    example_cache,
    trace,
    write_graph,
)
from c2c_export.graphs.repeat_parts import (
    add_alike,
    outputs_named,
    parameters_of,
    part_between,
    put_in_order,
    repeat_part,
    values_named,
)
from c2c_export.lowering.convert_weights import convert_weights
from c2c_export.lowering.graph_options import ORT, GraphOptions, Lowering
from c2c_export.lowering.operators import fuse_norms
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, Pair

Source = tuple[int, int, names.Kind]  # Sharer number (from 1), its layer, kind
Target = tuple[int, names.Kind]  # Receiver layer, kind


@dataclass(frozen=True)
class FuserLink:
    """One Sharer's Fuser of one Receiver layer; ``name``: of its weights in the graph.

    ``shared``: whether it is the Fuser of other links, too.
    """

    name: str
    sharer: int  # from 1
    sharer_layer: int
    fuser: FuserLayer
    shared: bool

    @property
    def kind(self) -> Hashable:
        """Links of one kind compute alike. In a trace what is shared has but one of its names."""
        weights = [(n, tuple(w.shape), w.dtype) for n, w in parameters_of(self.fuser).items()]
        one = id(self.fuser) if self.shared else None
        return self.sharer, type(self.fuser), self.fuser.facts, tuple(weights), one


Links = dict[int, list[FuserLink]]  # by Receiver layer


class FuserGraph(nn.Module):
    """slots, Sharer caches, Receiver caches -> Receiver caches with the section fused."""

    def __init__(self, links: Links, parallel: bool, lowering: Lowering) -> None:
        super().__init__()
        self.lowering = lowering
        self.links = links
        self.parallel = parallel
        linked = [(layer, link) for layer, found in links.items() for link in found]
        self.registered = nn.ModuleDict({link.name: link.fuser for _, link in linked})
        # What the graph reads and writes, each once, in a fixed order.
        self.sources: list[Source] = sorted(
            {
                (link.sharer, link.sharer_layer, kind)
                for _, link in linked
                for kind in link.fuser.reads
            }
        )
        self.targets: list[Target] = sorted(
            {(layer, kind) for layer, link in linked for kind in link.fuser.writes}
        )
        self.reads: list[Target] = sorted(
            {(layer, kind) for layer, link in linked for kind in link.fuser.reads}
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
        for layer in self.links:
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
        for link in self.links[layer]:
            base = start if self.parallel else current
            results = link.fuser(
                *(sections.get((link.sharer, link.sharer_layer, kind)) for kind in names.KINDS),
                *(base.get(kind) for kind in names.KINDS),
            )
            for kind, result in zip(names.KINDS, results, strict=True):
                if kind not in link.fuser.writes:
                    continue
                # Changes add up in float32, and the sum is rounded once.
                fused = (
                    current[kind].float() + (result.float() - start[kind].float())
                    if self.parallel
                    else result
                )
                if enabled:
                    fused = torch.where(enabled[link.sharer - 1], fused, current[kind])
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
    links = _links(pair, fusers)
    firsts: dict[Hashable, int] = {}
    kinds = {
        layer: firsts.setdefault(tuple(link.kind for link in found), layer)
        for layer, found in links.items()
    }
    parallel = pair.multi_sharer == "parallel"
    whole = FuserGraph(links, parallel, options.lowering)
    if not whole.targets:
        return None
    graph = FuserGraph(
        {layer: links[layer] for layer in firsts.values()}, parallel, options.lowering
    )
    traced = trace(graph, _signature(pair, graph, options), options.lowering.opset)
    _repeat_layers(traced.graph, whole, kinds)
    put_in_order(traced.graph, *_names(pair, whole), parameters_of(whole))
    return write_graph(traced, names.FUSER, directory, options)


def _links(pair: Pair, fusers: Sequence[dict[int, FuserLayer]]) -> Links:
    """All that are open."""
    uses = Counter(id(module) for fuser in fusers for module in fuser.values())
    links: Links = {}
    name = itertools.count()
    for number, (sharer, fuser) in enumerate(zip(pair.sharers, fusers, strict=True), start=1):
        for link in sharer.links:
            if link.key_gate or link.value_gate:
                module = fuser[link.receiver_layer]
                is_shared = uses[id(module)] > 1
                links.setdefault(link.receiver_layer, []).append(
                    FuserLink(str(next(name)), number, link.sharer_layer, module, is_shared)
                )
    return links


def _repeat_layers(graph: ir.Graph, whole: FuserGraph, kinds: Mapping[int, int]) -> None:
    """Make of the graph of the first layer of each kind, in place, that of all layers."""
    weights = parameters_of(whole)
    own = {layer: _own_names(layer, links, weights) for layer, links in whole.links.items()}
    parts = {
        first: part_between(
            graph, values_named(graph, own[first]), outputs_named(graph, _presents(first))
        )
        for first in set(kinds.values())
    }
    for layer, first in kinds.items():
        if layer == first:
            continue
        renamed = dict(zip(own[first], own[layer], strict=True))
        given = {
            value: add_alike(graph, value, renamed[str(value.name)], weights)
            for value in parts[first].own
        }
        results, _ = repeat_part(parts[first], given, graph[-1], f"layer_{layer}")
        renamed = dict(zip(_presents(first), _presents(layer), strict=True))
        for old, new in zip(parts[first].results, results, strict=True):
            new.name = renamed[str(old.name)]
            graph.outputs.append(new)


def _own_names(layer: int, links: Sequence[FuserLink], weights: Iterable[str]) -> list[str]:
    """What only one layer reads: caches, weights."""
    found = [names.past(layer, kind) for kind in names.KINDS]
    for link in links:
        prefix = f"registered.{link.name}."
        found += [names.sharer_cache(link.sharer, link.sharer_layer, kind) for kind in names.KINDS]
        found += [name for name in weights if name.startswith(prefix)]
    return found


def _presents(layer: int) -> list[str]:
    return [names.present(layer, kind) for kind in names.KINDS]


def _converted(fuser: dict[int, FuserLayer], dtype: torch.dtype) -> dict[int, FuserLayer]:
    """Copies of a Fuser's layers in ``dtype``, their norms in float32; layers that are one stay one."""
    copies: dict[int, FuserLayer] = {}
    for module in fuser.values():
        if id(module) not in copies:
            # What is converted is not copied before.
            memory = {
                id(weight): nn.Parameter(weight.data, False) for weight in module.parameters()
            }
            copied = copy.deepcopy(module, memory)
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
    return Signature(tuple(args), tuple(shapes), *_names(pair, graph))


def _names(pair: Pair, graph: FuserGraph) -> tuple[list[str], list[str]]:
    """All inputs and outputs of ``graph``, in its order."""
    numbers = range(1, len(pair.sharers) + 1)
    inputs = [
        names.SLOTS,
        *(names.sharer_slots(number) for number in numbers),
        *(names.past(layer, kind) for layer, kind in graph.reads),
        *(names.sharer_cache(number, layer, kind) for number, layer, kind in graph.sources),
        *(names.sharer_enabled(number) for number in numbers if len(numbers) > 1),
    ]
    return inputs, [names.present(layer, kind) for layer, kind in graph.targets]
