"""The element types that tensors of a bundle can have, and the bits that each takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

ELEMENT_BITS = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8": 8,
    "int64": 64,
    "int32": 32,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
    "int4": 4,
}


def num_bytes(shape: Sequence[int], dtype: str) -> int:
    """What a tensor takes. KeyError for an element type that no bundle has."""
    return math.prod(shape) * ELEMENT_BITS[dtype] // 8
