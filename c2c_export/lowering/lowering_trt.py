"""Dialect ``tensorrt``: standard operators that TensorRT has layers for.

TensorScatter becomes its KV-cache update (10.15 and newer), which writes in place, and Attention its
fused attention (10.14 and newer). Grouped heads are Attention's own: keys and values are not repeated.
What a token does not see is told to Attention as a bias: with a mask of booleans TensorRT-RTX 1.7 finds no
kernel for prefills of up to 32 tokens (64 for most head sizes), and says "more than one op named ...".
The precision of the softmax is the fused kernel's own: TensorRT's parser refuses softmax_precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from c2c_export.lowering.lowering_ort import scatter_rows
from c2c_export.lowering.lowering_static import StaticCacheStep
from c2c_export.lowering.tracing import RowWriter

OPSET = 24


class TrtCacheStep(StaticCacheStep):
    """TensorScatter, then Attention over the whole capacity."""

    @staticmethod
    def row_writer(first_slot: Tensor) -> RowWriter:
        """TensorScatter from slot ``first_slot`` [batch] on."""
        return lambda past, update: scatter_rows(past, update, first_slot)

    @staticmethod
    def attention(
        query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float
    ) -> Tensor:
        """One Attention node; shapes as ``StaticCacheStep`` has them."""
        # Not -inf: a kernel may see a whole tile of it, and make NaN of its maximum.
        lowest = max(torch.finfo(query.dtype).min, -1e30)
        bias = torch.where(visible, 0.0, lowest).to(query.dtype)
        return torch.onnx.ops.symbolic(
            "Attention",
            [query, key, value, bias],
            attrs={"scale": float(scale)},
            dtype=query.dtype,
            shape=query.shape,
            version=OPSET,
        )
