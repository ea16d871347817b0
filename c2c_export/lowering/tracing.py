"""Capturing a stock transformers model: every layer's attention goes through a cache step.

transformers calls a registered attention function with the layer's module and the keyword arguments
of the model's forward. Passing the step as such an argument keeps it local to one call: no global.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

ATTENTION = "c2c"  # attn_implementation under which the capture is registered


class RowWriter(Protocol):
    """Writes rows of caches, all from the same slots on."""

    def __call__(self, past: Tensor, update: Tensor) -> Tensor:
        """``past`` with ``update`` [batch, heads, tokens, head_dim] written into it."""
        ...


class CacheStep(Protocol):
    """What a dialect does with one layer's query, key and value."""

    present: dict[int, tuple[Tensor, Tensor]]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Append to the cache, attend, return [batch, tokens, heads, head_dim]."""
        ...


def capture_attention(model: PreTrainedModel) -> None:
    """From now on every layer of ``model`` calls the cache step that its forward is given."""
    model.set_attn_implementation(ATTENTION)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cache_step: CacheStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return cache_step.attend(layer, query, key, value, scale, sliding_window), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Causality and windows are the cache step's business."""


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
