"""Weights in the precision that a graph computes in."""

from __future__ import annotations

import torch
from torch import nn

from c2c_runtime.errors import PairError


def convert_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the parameters of ``module`` in place, one at a time.

    Buffers keep their dtype: rotary frequencies rounded to float16 would turn keys by a wrong angle.
    Raises ``PairError`` for weights that are too large for ``dtype``.
    """
    for name, weight in module.named_parameters():
        if weight.dtype == dtype or not weight.is_floating_point():
            continue
        # Rounding keeps order, so that all numbers are finite if the least and the largest are.
        extremes = torch.stack(weight.data.aminmax())
        if not bool(extremes.to(dtype).isfinite().all()):
            largest = float(extremes.abs().max())
            raise PairError.of(
                f"weight {name} reaches {largest:.3g}, which {dtype} cannot hold",
                "build with --precision bf16 or fp32",
            )
        weight.data = weight.data.to(dtype)
