"""Which graphs to export: the dialect, the precision they compute in, the capacity they are made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from c2c_export.lowering import lowering_ort, lowering_scatter, lowering_trt
from c2c_export.lowering.lowering_ort import OrtCacheStep
from c2c_export.lowering.lowering_scatter import ScatterCacheStep
from c2c_export.lowering.lowering_trt import TrtCacheStep
from c2c_export.lowering.tracing import CacheStep, RowWriter
from c2c_runtime.bundle.manifest import Dialect, Limits
from c2c_runtime.bundle.precision import Activations, GraphPrecision

_INT4_SINCE_OPSET = 21  # blocks of DequantizeLinear
_POSITIONS_WITHOUT_LIMITS = 4096
DTYPES: dict[Activations, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Lowering:
    """How a dialect says what tracing captures.

    ``row_writer(first_slot)`` writes rows of caches from slot ``first_slot`` [batch] on.
    ``rotary``: what rotates queries and keys: an ``operator``, the attention itself by a ``table``, or
    the steps in which the model is ``written``.
    """

    opset: int
    cache_step: Callable[..., CacheStep]
    row_writer: Callable[[Tensor], RowWriter]
    rotary: Literal["operator", "table", "written"]


LOWERINGS: dict[Dialect, Lowering] = {
    "ort": Lowering(lowering_ort.OPSET, OrtCacheStep, lowering_ort.row_writer, "table"),
    "tensorrt": Lowering(lowering_trt.OPSET, TrtCacheStep, TrtCacheStep.row_writer, "operator"),
    "tensorrt-scatter": Lowering(
        lowering_scatter.OPSET, ScatterCacheStep, ScatterCacheStep.row_writer, "written"
    ),
}


@dataclass(frozen=True)
class GraphOptions:
    """``precision``: that of one graph; dialect ``ort`` computes in fp32. ``limits``: the bundle's. The
    capacity of every cache is a number in the graphs, but for dialect ``ort``, where it stays a symbol
    and the positions are the rows of the rotary tables (4096 without limits)."""

    dialect: Dialect = "ort"
    precision: GraphPrecision = field(default_factory=GraphPrecision)
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.dialect == "ort":
            if self.precision.activations != "fp32" or self.precision.weights == "fp8":
                raise ValueError(f"dialect ort with precision {self.precision}")
        elif self.limits is None:
            raise ValueError(f"dialect {self.dialect} without limits")
        if self.precision.weights == "int4" and self.lowering.opset < _INT4_SINCE_OPSET:
            raise ValueError(f"dialect {self.dialect} with int4 weights")

    @property
    def lowering(self) -> Lowering:
        """How the dialect says what tracing captures."""
        return LOWERINGS[self.dialect]

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and caches."""
        return DTYPES[self.precision.activations]

    @property
    def num_positions(self) -> int:
        """Rows of rotary tables."""
        positions = self.limits and self.limits.max_positions
        return positions or _POSITIONS_WITHOUT_LIMITS

    @property
    def max_seq_len(self) -> int | None:
        """Slots of every cache, a number in the graphs; None: a symbol in them."""
        return None if self.dialect == "ort" or self.limits is None else self.limits.max_seq_len


def with_positions(limits: Limits, dialect: Dialect) -> Limits:
    """The limits of a bundle of graphs of ``dialect``. Where these hold rotary tables, there are twice
    as many positions as slots: dropped template padding takes positions, but no slots."""
    if LOWERINGS[dialect].rotary != "table":
        return limits
    return replace(limits, max_positions=2 * limits.max_seq_len)


ORT = GraphOptions()
