"""A Fuser graph tied to the memory of a Receiver's cache and of its Sharers': a fused slice at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2c_runtime.backends.backend import Graph
from c2c_runtime.bundle import names
from c2c_runtime.chain.kv_cache import KVCache, cache_bindings
from c2c_runtime.chain.section_passes import FusedSlice, even_parts


class BoundFuser:
    """Bound once; a run ties the slots of what is fused."""

    def __init__(self, graph: Graph, receiver: KVCache, sharers: Sequence[KVCache]) -> None:
        inputs, outputs = cache_bindings(receiver.buffers)
        for number, cache in enumerate(sharers, start=1):
            for (layer, kind), buffer in cache.buffers.items():
                inputs[names.sharer_cache(number, layer, kind)] = buffer
        self.bound = graph.bind(inputs, outputs)
        self._has_switches = len(sharers) > 1

    def fuse(self, fused: FusedSlice, num_tokens: int | None = None) -> None:
        """Write what the Sharers say of a section into the Receiver's cache, at most ``num_tokens`` at a
        time; None: all at once."""
        for part in even_parts(fused.length, num_tokens or fused.length):
            offsets = np.arange(part.start, part.stop, dtype=np.int64)
            self.bound.set_input(names.SLOTS, fused.receiver_start + offsets)
            for number, start in enumerate(fused.sharer_starts, start=1):
                enabled = bool(fused.mask >> (number - 1) & 1)
                # A Sharer that is left out may have fewer tokens; its slots are read for nothing.
                slots = start + offsets if enabled else np.zeros_like(offsets)
                self.bound.set_input(names.sharer_slots(number), slots)
                if self._has_switches:
                    self.bound.set_input(names.sharer_enabled(number), np.array([enabled]))
            self.bound.start()
            self.bound.wait()
