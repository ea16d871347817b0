"""What caches a model needs: the sizes of their buffers, as its graph in the bundle wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from c2c_runtime.bundle.manifest import Limits, ModelDims

Owner = Literal["Receiver", "Sharer"]


@dataclass(frozen=True)
class CacheSpec:
    """The sizes of one model's caches: the first ``num_layers`` of ``dims``, of a
    bundle's ``limits``, elements of ``dtype``."""

    owner: Owner
    dims: ModelDims
    num_layers: int
    limits: Limits
    dtype: str = "float32"
