"""What a GGUF file says it holds, from its header alone: keys with their values, and tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The header
holds the whole vocabulary as well, which is stepped over: reading it takes seconds.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Value type -> layout: u8, i8, u16, i16, u32, i32, f32, bool, then u64, i64, f64.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_SCALARS |= {10: "Q", 11: "q", 12: "d"}
_MAX_ARRAY = 1024  # longer ones are vocabularies, never a setting of a model
_UNQUANTISED = {0: "float32", 1: "float16", 30: "bfloat16"}  # of ggml_type


class BigEndianError(ValueError):
    """The file is whole, and written for machines of the other byte order."""


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's shape as PyTorch has it; ``dtype`` is None where it is quantised. ``offset``: of its
    data, in bytes behind the header."""

    shape: tuple[int, ...]
    dtype: str | None
    offset: int = 0


@dataclass(frozen=True)
class GGUFHeader:
    """``fields``: every key with its value; None for an array of more than 1024 elements.
    ``data_start``: where the tensors' data begins in the file, in bytes."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]
    data_start: int

    @property
    def architecture(self) -> str:
        """``general.architecture``, the namespace of the model's keys; empty where it is missing."""
        return str(self.fields.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, named without its namespace."""
        return self.fields.get(f"{self.architecture}.{key}", default)


def read_gguf_header(path: Path) -> GGUFHeader:
    """Raises ValueError for a file that is no GGUF or is cut short, BigEndianError, OSError."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Cursor(data).header()
        except struct.error as error:
            raise ValueError("the file ends within its header") from error


def read_floats(path: Path, header: GGUFHeader, name: str) -> np.ndarray:
    """A float32 tensor of a file, flat: ``[elements]``. ValueError where it is stored otherwise."""
    tensor = header.tensors[name]
    if tensor.dtype != "float32":
        raise ValueError(f"tensor {name} is not stored as float32")
    count = int(np.prod(tensor.shape))
    return np.fromfile(path, "<f4", count, offset=header.data_start + tensor.offset)


class _Cursor:
    """A position in the file that moves on with everything read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = len(_MAGIC)
        if data[: self.position] != _MAGIC:
            raise ValueError("it does not start with the letters GGUF")

    def header(self) -> GGUFHeader:
        version = self._number("<I")
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise BigEndianError("it is big-endian")
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version}, known are {_VERSIONS}")
        num_tensors, num_fields = self._number("<Q"), self._number("<Q")
        fields = {self._string(): self._value(self._number("<I")) for _ in range(num_fields)}
        tensors = dict(self._tensor() for _ in range(num_tensors))
        alignment = int(fields.get("general.alignment") or 32)
        return GGUFHeader(fields, tensors, -(-self.position // alignment) * alignment)

    def _tensor(self) -> tuple[str, GGUFTensor]:
        name = self._string()
        sizes = [self._number("<Q") for _ in range(self._number("<I"))]
        dtype = _UNQUANTISED.get(self._number("<I"))
        # GGUF: fastest dimension first.
        return name, GGUFTensor(tuple(reversed(sizes)), dtype, self._number("<Q"))

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return value

    def _number(self, layout: str) -> int:
        return int(self._scalar(layout))

    def _string(self) -> str:
        length = self._number("<Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise ValueError("the file ends within its header")
        return self.data[start : self.position].decode("utf-8", errors="replace")

    def _skip_string(self) -> None:
        length = self._number("<Q")
        self.position += length

    def _value(self, value_type: int) -> Any:
        if value_type in _SCALARS:
            return self._scalar("<" + _SCALARS[value_type])
        if value_type == _STRING:
            return self._string()
        if value_type != _ARRAY:
            raise ValueError(f"it holds a value of the unknown type {value_type}")
        element_type, length = self._number("<I"), self._number("<Q")
        if length <= _MAX_ARRAY:
            return [self._value(element_type) for _ in range(length)]
        if element_type in _SCALARS:
            self.position += length * struct.calcsize("<" + _SCALARS[element_type])
        elif element_type == _STRING:
            for _ in range(length):
                self._skip_string()
        else:
            raise ValueError(f"it holds a long array of the type {element_type}")
        return None
