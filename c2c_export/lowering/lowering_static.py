"""What the dialects for TensorRT share: attention over the whole of a cache of fixed capacity.

A slot is seen if it lies no further than the token's own and, in a windowed layer, if it is less than
``window`` positions back. The rule is an explicit mask of booleans: what an operator's own causality
means for one query over a longer past differs between backends. A slot behind the valid length is
masked, so it may hold what another conversation left there; a NaN, or what overflows in a product
with the query, would spoil the sum over the values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from c2c_export.lowering.tracing import RowWriter


@dataclass
class StaticCacheStep(ABC):
    """One call of a graph while it is traced: the caches before it, and what it makes of them.

    Shapes: ``past`` [batch, kv_heads, max_seq_len, head_dim] a layer and kind, max_seq_len being a
    number, ``positions`` [batch, tokens], ``past_length`` [batch], ``key_positions``
    [batch, max_seq_len] or None.
    """

    past: Mapping[int, tuple[Tensor, Tensor]]  # by layer
    positions: Tensor
    past_length: Tensor
    key_positions: Tensor | None
    write_only_layer: int | None = None  # keys and values of this layer are stored, nothing attends
    present: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _visible: dict[int | None, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._write = self.row_writer(self.past_length)

    @staticmethod
    @abstractmethod
    def row_writer(first_slot: Tensor) -> RowWriter:
        """What writes rows of caches from slot ``first_slot`` [batch] on."""

    @staticmethod
    @abstractmethod
    def attention(
        query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float
    ) -> Tensor:
        """Attention with grouped heads and a softmax in float32.

        query [batch, heads, tokens, head_dim], key and value [batch, kv_heads, max_seq_len,
        head_dim], visible [batch, 1, tokens, max_seq_len]; returns the query's shape.
        """

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Append key and value to the cache and attend to all of it, causally.

        query [batch, heads, tokens, head_dim], key and value [batch, kv_heads, tokens, head_dim],
        keys after rotary embedding; returns [batch, tokens, heads, head_dim].
        """
        past_key, past_value = self.past[layer]
        present = (self._write(past_key, key), self._write(past_value, value))
        self.present[layer] = present
        if layer == self.write_only_layer:
            return query.transpose(1, 2)  # nothing reads it: removed with all that follows
        return self.attention(query, *present, self._mask(window), scale).transpose(1, 2)

    def _mask(self, window: int | None) -> Tensor:
        """Which slots a token sees: [batch, 1, tokens, max_seq_len], bool. One for all layers."""
        if window not in self._visible:
            num_tokens, max_seq_len = self.positions.shape[1], self.past[0][0].shape[2]
            own = self.past_length[:, None] + torch.arange(num_tokens)  # [batch, tokens]
            visible = torch.arange(max_seq_len) <= own[:, :, None]
            if window is not None:
                if self.key_positions is None:
                    raise ValueError("a windowed layer needs the input key_positions")
                distance = self.positions[:, :, None] - self.key_positions[:, None, :]
                visible = visible & (distance < window)
            self._visible[window] = visible[:, None]
        return self._visible[window]
