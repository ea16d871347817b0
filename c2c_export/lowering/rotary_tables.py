"""Rotary embedding by table: the angles of every position, computed once by the model's own module.

While a graph of dialect ``ort`` is traced, a layer's rotary function rotates nothing: it hands the
layer's table on to the layer's attention, whose operator rotates by it. The table's rows are what eager
computes, and a call of the graph computes no sine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from c2c_export.lowering.operators import ROTARY, rotary_operator, rotates_halves, swapped

ROTARY_MODULE = "rotary_emb"  # the name of the decoder's module that gives the angles


@dataclass(frozen=True)
class RotaryTable:
    """Cosine and sine of every position's angles, each [num_positions, rotary_dim / 2]."""

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [batch, heads, tokens, head_dim] rotated by an operator of its own; positions
        [batch, tokens]."""
        return rotary_operator(x, self.cos, self.sin, positions)


@dataclass
class PendingRotary:
    """The table by which the attention that comes next has to rotate; None: by none."""

    _table: RotaryTable | None = field(default=None, init=False)

    def put(self, cos: Tensor, sin: Tensor) -> None:
        """Say what the layer's rotary function was called with."""
        self._table = RotaryTable(cos, sin)

    def take(self) -> RotaryTable | None:
        """The table, once: a layer without rotary embedding finds none."""
        table, self._table = self._table, None
        return table


class _TableModule(nn.Module):
    """Stands in for a model's rotary module: gives tables where that gives the angles of positions."""

    def __init__(
        self, original: nn.Module, layer_types: list[str | None], num_positions: int
    ) -> None:
        super().__init__()
        positions = torch.arange(num_positions)[None]
        for layer_type in layer_types:
            args = () if layer_type is None else (layer_type,)
            with torch.no_grad():
                angles = original(torch.zeros(1), positions, *args)
            for name, table in zip(("cos", "sin"), angles, strict=True):
                first, second = table[0].chunk(2, dim=-1)
                if not torch.equal(first, second):
                    raise ValueError(f"the halves of the rotary table {name} differ")
                self.register_buffer(f"{name}_{layer_type}", first.contiguous())

    def forward(
        self, _: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tables of a layer type, whatever the positions."""
        return self.get_buffer(f"cos_{layer_type}"), self.get_buffer(f"sin_{layer_type}")


@contextmanager
def rotary_by_table(model: PreTrainedModel, num_positions: int) -> Iterator[PendingRotary | None]:
    """While it lasts, the layers of ``model`` leave rotating to their attention.

    Yields what hands the tables over. None where the model's rotary function is not the one that
    operators compute: then it is traced as it is written.
    """
    modeling = sys.modules[type(model).__module__]
    original = getattr(modeling, ROTARY, None)
    if original is None or not rotates_halves(original):
        yield None
        return
    pending = PendingRotary()

    def hand_over(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        pending.put(cos, sin)
        return query, key

    module = getattr(model.model, ROTARY_MODULE)
    by_layer_type = getattr(module, "rope_type", None)  # a name, or one for each type of layer
    layer_types = list(by_layer_type) if isinstance(by_layer_type, dict) else [None]
    tables = _TableModule(module, layer_types, num_positions)
    with swapped(model.model, ROTARY_MODULE, tables), swapped(modeling, ROTARY, hand_over):
        yield pending
