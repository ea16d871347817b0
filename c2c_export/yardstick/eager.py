"""The yardstick: the C2C chain in eager PyTorch over stock transformers models.

Written for being obviously right, not fast. Sharer caches depend on nothing else, so they come from
one pass; the Receiver goes section by section, as c2c-semantics has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from c2c_export.fusers.fuser import FuserLayer

Caches = list[tuple[Tensor, Tensor]]  # (key, value) a layer, [1, kv_heads, tokens, head_dim]


def clean_caches(model: PreTrainedModel, ids: Sequence[int], *, all_logits: bool = False) -> Caches:
    """The caches of one pass over ``ids`` that starts empty. ``all_logits``: see ``ReceiverChain``."""
    # A cache that knows no config keeps every token of windowed layers too.
    cache = DynamicCache()
    forward = model if all_logits else model.model
    with torch.no_grad():
        forward(input_ids=torch.tensor([list(ids)]), cache=cache, use_cache=True)
    return _caches(cache)


class ReceiverChain:
    """A Receiver whose cache the Sharers' caches are fused into.

    ``fusers``: for each Sharer, {Receiver layer: (Sharer layer, Fuser layer)}.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        fusers: Sequence[dict[int, tuple[int, FuserLayer]]],
        multi_sharer: str = "sequential",
        *,
        all_logits: bool = False,
    ) -> None:
        """``all_logits``: compute logits of every token, as the published code does; by default only
        those that are used."""
        self.model = model
        self.fusers = fusers
        self.parallel = multi_sharer == "parallel"
        self.cache = DynamicCache()
        self._logits_to_keep = 0 if all_logits else 1

    @property
    def caches(self) -> Caches:
        """The Receiver's caches as they stand."""
        return _caches(self.cache)

    def append(self, ids: Sequence[int], sharer_sections: Sequence[Caches], mask: int) -> None:
        """Run one section and fuse the Sharers whose bit is set (mask -1: none).

        ``sharer_sections``: a Sharer's caches of this section only.
        """
        self.decode(ids)
        self.fuse(len(ids), sharer_sections, mask)

    def fuse(self, num_tokens: int, sharer_sections: Sequence[Caches], mask: int) -> None:
        """The second half of ``append``: fuse into the last ``num_tokens`` of the cache."""
        if mask < 0:
            return
        start = self.cache.get_seq_length() - num_tokens
        for layer, cached in enumerate(self.cache.layers):
            clean = (cached.keys[:, :, start:].clone(), cached.values[:, :, start:].clone())
            current = clean
            for number, fuser in enumerate(self.fusers):
                if layer not in fuser or not mask >> number & 1:
                    continue
                sharer_layer, module = fuser[layer]
                key, value = sharer_sections[number][sharer_layer]
                with torch.no_grad():
                    if self.parallel:
                        fused = module(key, value, *clean)
                        current = (
                            current[0] + (fused[0] - clean[0]),
                            current[1] + (fused[1] - clean[1]),
                        )
                    else:
                        current = module(key, value, *current)
            cached.keys[:, :, start:], cached.values[:, :, start:] = current

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Run ``ids`` through the Receiver alone; logits after the last one, [vocab_size]."""
        with torch.no_grad():
            output = self.model(
                input_ids=torch.tensor([list(ids)]),
                cache=self.cache,
                use_cache=True,
                logits_to_keep=self._logits_to_keep,
            )
        logits: Tensor = output.logits[0, -1]
        return logits

    def greedy(
        self, last_section: Sequence[int], num_tokens: int
    ) -> tuple[list[int], list[Tensor]]:
        """Greedy ids and the logits each was taken from, starting with the last section."""
        logits = [self.decode(last_section)]
        ids = [int(logits[-1].argmax())]
        while len(ids) < num_tokens:
            logits.append(self.decode(ids[-1:]))
            ids.append(int(logits[-1].argmax()))
        return ids, logits


def _caches(cache: DynamicCache) -> Caches:
    return [(layer.keys, layer.values) for layer in cache.layers]
