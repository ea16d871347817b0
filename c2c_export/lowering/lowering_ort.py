"""Dialect ``ort``: how attention over a caller-owned cache becomes ONNX Runtime operators.

Full layers: com.microsoft GroupQueryAttention over a shared past/present buffer, whose cost follows
the valid length and not the capacity. Windowed layers: the same node with an explicit bias computed
from positions, so that a window is counted in positions also where template padding was dropped and
positions run ahead of cache slots. A layer of which only the keys and values are needed: TensorScatter,
in place when past and present are bound to the same memory. Head sizes that GroupQueryAttention does
not take (it wants multiples of 8): TensorScatter, then Attention over the valid part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import torch
from torch import Tensor

from c2c_export.lowering.rotary_tables import PendingRotary
from c2c_export.lowering.tracing import RowWriter

OPSET = 24
DIALECT: Final = "ort"
_GQA_HEAD_DIM_MULTIPLE = 8
_GQA_ROTARY_DIM_MULTIPLE = 16  # of heads that it rotates by itself
# A logit that softmax counts beside a head's own: exp of it is 0, so nothing changes but how
# GroupQueryAttention computes on a CPU. Without one it works in tiles, and 1024 tokens of SmolLM2-135M
# take 1.1 to 1.2 times as long, in passes of 256 and in one (onnxruntime 1.32, two cores with AVX-512).
_NO_SINK = -1e30


@dataclass
class OrtCacheStep:
    """One call of a graph while it is traced: the caches before it, and what it makes of them.

    Shapes: ``past`` [batch, kv_heads, max_seq_len, head_dim] a layer and kind, ``positions``
    [batch, tokens], ``past_length`` [batch], ``key_positions`` [batch, max_seq_len] or None.
    """

    past: Mapping[int, tuple[Tensor, Tensor]]  # by layer
    positions: Tensor
    past_length: Tensor
    key_positions: Tensor | None
    write_only_layer: int | None = None  # keys and values of this layer are stored, nothing attends
    rotary: PendingRotary | None = None  # None: queries and keys come rotated
    present: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _window_bias: dict[int, Tensor] = field(default_factory=dict)
    _sinks: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_tokens = self.positions.shape[1]
        self._last_key = (self.past_length + (num_tokens - 1)).to(torch.int32)
        self._total = self._total_length(num_tokens).to(torch.int32)

    def _total_length(self, num_tokens: int) -> Tensor:
        """Slots that may hold something after this call: int64 scalar.

        One more than that over an empty cache where there is room: if as many slots are held as tokens
        came, GroupQueryAttention counts positions up from the first, past any gap between the others
        (microsoft/onnxruntime, ``position_ids_format`` of its CPU kernel). Only of a single row, because
        it refuses several rows of several tokens behind others.
        """
        total = self.past_length.max() + num_tokens
        num_rows = torch.ones_like(self.past_length).sum()
        capacity = self.past[0][0].shape[2]
        at_least = torch.clamp(num_tokens + (num_rows == 1).to(torch.int64), max=capacity)
        return torch.maximum(total, at_least)

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
        queries and keys rotated here if the layer left that to its attention; returns
        [batch, tokens, heads, head_dim].
        """
        past_key, past_value = self.past[layer]
        table = self.rotary.take() if self.rotary is not None else None
        is_grouped = layer != self.write_only_layer and not query.shape[-1] % _GQA_HEAD_DIM_MULTIPLE
        is_fused = is_grouped and not query.shape[-1] % _GQA_ROTARY_DIM_MULTIPLE
        if table is not None and not is_fused:
            query, key = (table.rotate(x, self.positions) for x in (query, key))
            table = None
        if layer == self.write_only_layer:
            self.present[layer] = (self._scatter(past_key, key), self._scatter(past_value, value))
            return query.transpose(1, 2)  # nothing reads it: removed with all that follows
        if not is_grouped:
            return self._attend_with_standard_operators(layer, query, key, value, scale, window)
        batch, num_heads, num_tokens, head_dim = query.shape
        inputs: list[Tensor | None] = [
            _flatten_heads(query),
            _flatten_heads(key),
            _flatten_heads(value),
            past_key,
            past_value,
            self._last_key,
            self._total,
        ]
        inputs += [None, None, None] if table is None else [table.cos, table.sin, self.positions]
        inputs += [None if window is None else self._bias(window), self._sink(num_heads)]
        output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            attrs={
                "num_heads": num_heads,
                "kv_num_heads": key.shape[1],
                "scale": float(scale),
                "do_rotary": int(table is not None),
            },
            dtypes=[query.dtype, past_key.dtype, past_value.dtype],
            shapes=[[batch, num_tokens, num_heads * head_dim], past_key.shape, past_value.shape],
            version=1,
        )
        self.present[layer] = (present_key, present_value)
        return output.reshape(batch, num_tokens, num_heads, head_dim)

    def _attend_with_standard_operators(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        present = tuple(
            self._scatter(past, update)
            for past, update in zip(self.past[layer], (key, value), strict=True)
        )
        self.present[layer] = (present[0], present[1])
        caches = (self._without_garbage(self._valid_part(cache, 2)) for cache in present)
        output = torch.onnx.ops.symbolic(
            "Attention",
            [query, *caches, self._visible(window)],
            attrs={"scale": float(scale)},
            dtype=query.dtype,
            shape=query.shape,
            version=OPSET,
        )
        return output.transpose(1, 2)

    def _without_garbage(self, cache: Tensor) -> Tensor:
        """Zeros behind a row's own length, which other rows of the batch reach beyond: a masked NaN
        would still be NaN in a product."""
        slots = self._valid_part(torch.arange(cache.shape[2]), 0)
        is_own = slots <= self._last_key[:, None]  # [batch, total]
        return torch.where(is_own[:, None, :, None], cache, 0.0)

    def _visible(self, window: int | None) -> Tensor:
        """Which cache slots a token sees: [batch, 1, tokens, total], bool."""
        num_tokens = self.positions.shape[1]
        slots = self._valid_part(torch.arange(self.past[0][0].shape[2]), 0)
        own = self.past_length[:, None] + torch.arange(num_tokens)  # [batch, tokens]
        visible = slots <= own[:, None, :, None]
        if window is not None:
            visible = visible & (self._distance() < window)
        return visible

    def _scatter(self, past: Tensor, update: Tensor) -> Tensor:
        return scatter_rows(past, update, self.past_length)

    def _bias(self, window: int) -> Tensor:
        """0 where a key is less than ``window`` positions back, the lowest number elsewhere:
        [batch, 1, tokens, total]. Causality is the node's own rule. One for all layers."""
        if window not in self._window_bias:
            self._window_bias[window] = torch.where(
                self._distance() < window, 0.0, torch.finfo(torch.float32).min
            )
        return self._window_bias[window]

    def _sink(self, num_heads: int) -> Tensor:
        """``_NO_SINK`` a head: [heads]. One for all layers."""
        if num_heads not in self._sinks:
            self._sinks[num_heads] = torch.full((num_heads,), _NO_SINK)
        return self._sinks[num_heads]

    def _distance(self) -> Tensor:
        """How many positions back each valid key lies: [batch, 1, tokens, total]."""
        if self.key_positions is None:
            raise ValueError("a windowed layer needs the input key_positions")
        keys = self._valid_part(self.key_positions, 1)
        return self.positions[:, None, :, None] - keys[:, None, None, :]

    def _valid_part(self, tensor: Tensor, axis: int) -> Tensor:
        """The first ``total`` entries along ``axis``. ``total`` is data, so the shape stated here is
        that of the whole; shapes inside a graph are advisory, and a pass drops them."""
        bounds = torch.zeros(1, dtype=torch.int64), self._total.to(torch.int64).reshape(1)
        sliced: Tensor = torch.onnx.ops.symbolic(
            "Slice",
            [tensor, *bounds, torch.tensor([axis])],
            dtype=tensor.dtype,
            shape=tensor.shape,
            version=OPSET,
        )
        return sliced


def scatter_rows(past: Tensor, update: Tensor, first_slot: Tensor) -> Tensor:
    """Write ``update`` [batch, heads, tokens, dim] into ``past`` from slot ``first_slot`` [batch]
    on; the result shares past's memory when both are bound to one buffer."""
    return torch.onnx.ops.symbolic(
        "TensorScatter",
        [past, update, first_slot],
        attrs={"axis": 2},
        dtype=past.dtype,
        shape=past.shape,
        version=OPSET,
    )


def row_writer(first_slot: Tensor) -> RowWriter:
    """What writes rows of caches from slot ``first_slot`` [batch] on."""
    return partial(scatter_rows, first_slot=first_slot)


def _flatten_heads(states: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]."""
    batch, num_heads, num_tokens, head_dim = states.shape
    return states.transpose(1, 2).reshape(batch, num_tokens, num_heads * head_dim)
