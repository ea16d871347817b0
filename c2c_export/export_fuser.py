"""The Fuser graph: a section of the Sharers' and the Receiver's caches in, the fused section written
into the Receiver's caches.

A closed gate leaves nothing: neither the branch, nor the caches that only it would read or write.
Several Sharers are combined here: ``sequential`` lets each fuse into what the one before left;
``parallel`` adds what each changes to the clean cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from c2c_runtime import names
from c2c_runtime.manifest import GraphSpec, Pair
from torch import Tensor, nn
from torch.export import Dim

from c2c_export.export_graph import Signature, export_graph
from c2c_export.fuser import FuserLayer
from c2c_export.lowering_ort import scatter_rows


@dataclass(frozen=True)
class _Branch:
    """One open gate: Sharer ``number`` writes ``kind`` of a Receiver layer."""

    number: int
    receiver_layer: int
    sharer_layer: int
    kind: names.Kind


class FuserGraph(nn.Module):
    """slots, Sharer caches, Receiver caches -> Receiver caches with the section fused.

    ``fusers``: for each Sharer, its Fuser layer of every Receiver layer it is linked to.
    """

    def __init__(self, pair: Pair, fusers: Sequence[dict[int, FuserLayer]]) -> None:
        super().__init__()
        self.parallel = pair.multi_sharer == "parallel"
        self.num_sharers = len(pair.sharers)
        self.layers = nn.ModuleList(
            nn.ModuleDict({str(layer): module for layer, module in fuser.items()}) for fuser in fusers
        )
        self.branches = [
            _Branch(number, link.receiver_layer, link.sharer_layer, kind)
            for number, sharer in enumerate(pair.sharers, start=1)
            for link in sharer.links
            for kind, is_open in (("key", link.key_gate), ("value", link.value_gate))
            if is_open
        ]
        # What the graph reads and writes, each once, in a fixed order.
        self.targets = sorted({(b.receiver_layer, b.kind) for b in self.branches})
        self.sources = sorted({(b.number, b.sharer_layer, b.kind) for b in self.branches})

    def forward(
        self,
        slots: Tensor,
        sharer_slots: list[Tensor],
        past: list[Tensor],
        sharer_caches: list[Tensor],
        enabled: list[Tensor],
    ) -> list[Tensor]:
        """``past`` and ``sharer_caches`` follow ``targets`` and ``sources``; shapes as in
        ``c2c_runtime.names``. ``enabled`` is empty for a single Sharer."""
        sharer_sections = {
            source: cache.index_select(2, sharer_slots[source[0] - 1])
            for source, cache in zip(self.sources, sharer_caches, strict=True)
        }
        present = []
        for target, cache in zip(self.targets, past, strict=True):
            clean = cache.index_select(2, slots)
            fused = self._fuse(target, clean, sharer_sections, enabled)
            present.append(scatter_rows(cache, fused, slots[:1].expand(cache.shape[0])))
        return present

    def _fuse(
        self,
        target: tuple[int, names.Kind],
        clean: Tensor,
        sharer_sections: dict[tuple[int, int, names.Kind], Tensor],
        enabled: list[Tensor],
    ) -> Tensor:
        """What all Sharers make of one section of one cache, [batch, kv_heads, tokens, head_dim]."""
        current = clean
        for branch in self.branches:
            if (branch.receiver_layer, branch.kind) != target:
                continue
            layer = self.layers[branch.number - 1][str(branch.receiver_layer)]
            fuse = layer.fuse_key if branch.kind == "key" else layer.fuse_value
            section = sharer_sections[branch.number, branch.sharer_layer, branch.kind]
            if self.parallel:
                fused = current + (fuse(section, clean) - clean)
            else:
                fused = fuse(section, current)
            current = torch.where(enabled[branch.number - 1], fused, current) if enabled else fused
        return current


def export_fuser(
    pair: Pair, fusers: Sequence[dict[int, FuserLayer]], directory: Path
) -> GraphSpec | None:
    """Write the Fuser graph. None if every gate is closed: then there is nothing to compute."""
    graph = FuserGraph(pair, fusers)
    if not graph.branches:
        return None
    return export_graph(graph, _signature(pair, graph), names.FUSER, directory)


def _signature(pair: Pair, graph: FuserGraph) -> Signature:
    batch, tokens = Dim("batch", min=1), Dim("tokens", min=1)
    capacity = Dim("max_seq_len", min=1)
    num_sharers = len(pair.sharers)

    def cache(num_kv_heads: int, head_dim: int) -> Tensor:
        return torch.zeros(2, num_kv_heads, 16, head_dim)

    receiver = pair.receiver
    past = [cache(receiver.num_kv_heads, receiver.head_dim) for _ in graph.targets]
    sharer_dims = [pair.sharers[number - 1].dims for number, _, _ in graph.sources]
    sharer_caches = [cache(dims.num_kv_heads, dims.head_dim) for dims in sharer_dims]
    slots = torch.arange(5)
    enabled = [torch.ones(1, dtype=torch.bool)] * (num_sharers if num_sharers > 1 else 0)
    numbers = range(1, num_sharers + 1)
    return Signature(
        args=(slots, [slots.clone() for _ in numbers], past, sharer_caches, enabled),
        dynamic_shapes=(
            {0: tokens},
            [{0: tokens}] * num_sharers,
            [{0: batch, 2: capacity}] * len(past),
            [{0: batch, 2: capacity}] * len(sharer_caches),
            [{}] * len(enabled),
        ),
        input_names=[
            names.SLOTS,
            *(names.sharer_slots(number) for number in numbers),
            *(names.past(layer, kind) for layer, kind in graph.targets),
            *(names.sharer_cache(number, layer, kind) for number, layer, kind in graph.sources),
            *(names.sharer_enabled(number) for number in numbers if enabled),
        ],
        output_names=[names.present(layer, kind) for layer, kind in graph.targets],
    )
