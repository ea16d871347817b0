"""The yardstick for chats: one masked eager forward a model over the padded sequence, as in training.

Template sections are padded at their end to equal length; the padding is masked, and positions count
over it. The Receiver's pass is cut where a section ends, because later sections attend to fused keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint
from c2c_runtime.sections.alignment import Section

PAD = 0  # masked: which token it is does not matter
Caches = dict[tuple[int, str], np.ndarray]


@dataclass(frozen=True)
class Yardstick:
    """Real tokens only: caches before the last section [1, kv_heads, tokens, head_dim], the logits
    after its last real token [vocab_size], and the greedy answer."""

    receiver: Caches
    sharer: Caches
    logits: np.ndarray
    greedy_ids: tuple[int, ...]


def masked_eager(
    receiver: PreTrainedModel,
    sharer: PreTrainedModel,
    fuser: FuserCheckpoint,
    sections: Sequence[Section],
    num_greedy: int = 1,
) -> Yardstick:
    own = _Padded([(s.receiver_ids, s.span) for s in sections])
    other = _Padded([(s.sharer_ids[0] if s.sharer_ids else (), s.span) for s in sections[:-1]])
    sharer_cache = DynamicCache()
    _forward(sharer.model, other, 0, len(other.ids), sharer_cache)
    layers = fuser.load_layers()
    cache = DynamicCache()
    start = 0
    for section in sections[:-1]:
        stop = start + section.span
        _forward(receiver.model, own, start, stop, cache)
        if section.mask > 0:
            for layer, module in layers.items():
                source = sharer_cache.layers[fuser.links[layer][0]]
                target = cache.layers[layer]
                with torch.no_grad():
                    key, value = module(
                        source.keys[:, :, start:stop],
                        source.values[:, :, start:stop],
                        target.keys[:, :, start:stop],
                        target.values[:, :, start:stop],
                    )
                target.keys[:, :, start:stop], target.values[:, :, start:stop] = key, value
        start = stop
    before_last = _real(cache, own, start)
    output = _forward(receiver, own, start, len(own.ids), cache)
    last_real = len(sections[-1].receiver_ids) - 1
    logits = output.logits[0, last_real]
    greedy_ids = [int(logits.argmax())]
    while len(greedy_ids) < num_greedy:
        own.append(greedy_ids[-1])
        output = _forward(receiver, own, len(own.ids) - 1, len(own.ids), cache)
        greedy_ids.append(int(output.logits[0, -1].argmax()))
    sharer_caches = _real(sharer_cache, other, start)
    return Yardstick(before_last, sharer_caches, logits.numpy(), tuple(greedy_ids))


class _Padded:
    """Ids with every section padded at its end to its span, and which of them are real."""

    def __init__(self, parts: Sequence[tuple[Sequence[int], int]]) -> None:
        self.ids: list[int] = []
        self.is_real: list[int] = []
        for ids, span in parts:
            missing = span - len(ids)
            self.ids += [*ids, *[PAD] * missing]
            self.is_real += [1] * len(ids) + [0] * missing

    def append(self, token_id: int) -> None:
        """One more real token."""
        self.ids.append(token_id)
        self.is_real.append(1)


def _forward(model, padded: _Padded, start: int, stop: int, cache: DynamicCache):
    if start == stop:
        return None
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([padded.ids[start:stop]]),
            attention_mask=torch.tensor([padded.is_real[:stop]]),
            position_ids=torch.arange(start, stop)[None],
            cache=cache,
            use_cache=True,
        )


def _real(cache: DynamicCache, padded: _Padded, stop: int) -> Caches:
    keep = torch.tensor([i for i in range(stop) if padded.is_real[i]])

    def take(tensor: Tensor) -> np.ndarray:
        return tensor.index_select(2, keep).numpy()

    return {
        (number, kind): take(tensor)
        for number, layer in enumerate(cache.layers)
        for kind, tensor in (("key", layer.keys), ("value", layer.values))
    }
