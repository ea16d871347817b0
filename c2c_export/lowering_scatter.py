"""Dialect ``tensorrt-scatter``: no operator newer than opset 20, for TensorRT 10.3 to 10.14.

ScatterND writes the cache, two products and a Softmax are attention. Past and present are two tensors
here: TensorRT's scatter does not write in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from c2c_export.lowering_static import StaticCacheStep

OPSET = 20


class ScatterCacheStep(StaticCacheStep):
    """ScatterND, then MatMul, Softmax, MatMul over the whole capacity."""

    @staticmethod
    def write_rows(past: Tensor, update: Tensor, first_slot: Tensor) -> Tensor:
        """``past`` with ``update`` [batch, heads, tokens, dim] from slot ``first_slot`` [batch] on."""
        batch, num_heads, num_tokens, _ = update.shape
        slots = first_slot[:, None] + torch.arange(num_tokens)  # [batch, tokens]
        shape = (batch, num_heads, num_tokens)
        indices = torch.stack(
            [
                torch.arange(batch)[:, None, None].expand(shape),
                torch.arange(num_heads)[None, :, None].expand(shape),
                slots[:, None, :].expand(shape),
            ],
            dim=-1,
        )
        return torch.onnx.ops.symbolic(
            "ScatterND", [past, indices, update], dtype=past.dtype, shape=past.shape, version=18
        )

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
