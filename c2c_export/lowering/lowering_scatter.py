"""Dialect ``tensorrt-scatter``: no operator newer than opset 20, for TensorRT 10.3 to 10.14.

ScatterND writes the cache, two products and a Softmax are attention. Past and present are two tensors
here: TensorRT's scatter does not write in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from c2c_export.lowering.lowering_static import StaticCacheStep
from c2c_export.lowering.tracing import RowWriter

OPSET = 20


class ScatterCacheStep(StaticCacheStep):
    """ScatterND, then MatMul, Softmax, MatMul over the whole capacity."""

    @staticmethod
    def row_writer(first_slot: Tensor) -> RowWriter:
        """ScatterND from slot ``first_slot`` [batch] on, by indices that all caches share."""
        indices: dict[int, Tensor] = {}  # by number of heads

        def write(past: Tensor, update: Tensor) -> Tensor:
            num_heads = update.shape[1]
            if num_heads not in indices:
                indices[num_heads] = _indices(first_slot, num_heads, update.shape[2])
            return torch.onnx.ops.symbolic(
                "ScatterND",
                [past, indices[num_heads], update],
                dtype=past.dtype,
                shape=past.shape,
                version=18,
            )

        return write

    @staticmethod
    def attention(
        query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float
    ) -> Tensor:
        """Products a KV head, over the queries of its whole group; shapes as ``StaticCacheStep`` has
        them. The query is scaled before the product, so that float16 does not overflow in it."""
        batch, num_heads, num_tokens, head_dim = query.shape
        num_kv_heads, max_seq_len = key.shape[1], key.shape[2]
        group = num_heads // num_kv_heads
        queries = (query * scale).reshape(batch, num_kv_heads, group * num_tokens, head_dim)
        scores = (queries @ key.transpose(2, 3)).float()
        scores = scores.reshape(batch, num_kv_heads, group, num_tokens, max_seq_len)
        lowest = torch.finfo(torch.float32).min
        weights = torch.where(visible[:, None], scores, lowest).softmax(-1).to(query.dtype)
        weights = weights.reshape(batch, num_kv_heads, group * num_tokens, max_seq_len)
        return (weights @ value).reshape(batch, num_heads, num_tokens, head_dim)


def _indices(first_slot: Tensor, num_heads: int, num_tokens: int) -> Tensor:
    """Row, head and slot of every token: [batch, num_heads, num_tokens, 3]."""
    shape = (first_slot.shape[0], num_heads, num_tokens)
    rows = torch.arange(shape[0])[:, None, None]
    heads = torch.arange(num_heads)[:, None]
    slots = first_slot[:, None, None] + torch.arange(num_tokens)
    return torch.stack([axis.expand(shape) for axis in (rows, heads, slots)], dim=-1)
