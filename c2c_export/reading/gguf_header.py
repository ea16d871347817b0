"""The tensors that a GGUF file says it holds, from its header alone.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The header
holds the whole vocabulary as well, which is stepped over: reading it takes seconds.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Value type -> bytes: u8, i8, u16, i16, u32, i32, f32, bool, then u64, i64, f64.
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UNQUANTISED = {0: "float32", 1: "float16", 30: "bfloat16"}  # of ggml_type


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's shape as PyTorch has it; ``dtype`` is None where it is quantised."""

    shape: tuple[int, ...]
    dtype: str | None


def read_gguf_tensors(path: Path) -> dict[str, GGUFTensor]:
    """Names to shapes. Raises ValueError for a file that is no GGUF or is cut short, OSError."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(data).tensors()
        except struct.error as error:
            raise ValueError("the file ends within its header") from error


class _Header:
    """A position in the file that moves on with everything read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = len(_MAGIC)
        if data[: self.position] != _MAGIC:
            raise ValueError("it does not start with the letters GGUF")

    def tensors(self) -> dict[str, GGUFTensor]:
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version}, known are {_VERSIONS}")
        num_tensors, num_fields = self._number("<Q"), self._number("<Q")
        for _ in range(num_fields):
            self._skip_string()
            self._skip_value(self._number("<I"))
        return dict(self._tensor() for _ in range(num_tensors))

    def _tensor(self) -> tuple[str, GGUFTensor]:
        start = self.position + 8
        self._skip_string()
        name = self.data[start : self.position].decode("utf-8")
        sizes = [self._number("<Q") for _ in range(self._number("<I"))]
        dtype = _UNQUANTISED.get(self._number("<I"))
        self._number("<Q")  # where its data lies
        return name, GGUFTensor(tuple(reversed(sizes)), dtype)  # GGUF: fastest dimension first

    def _number(self, layout: str) -> int:
        (number,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return int(number)

    def _skip_string(self) -> None:
        length = self._number("<Q")
        self.position += length

    def _skip_value(self, value_type: int) -> None:
        if value_type in _SCALAR_BYTES:
            self.position += _SCALAR_BYTES[value_type]
        elif value_type == _STRING:
            self._skip_string()
        elif value_type == _ARRAY:
            element_type, length = self._number("<I"), self._number("<Q")
            if element_type in _SCALAR_BYTES:
                self.position += length * _SCALAR_BYTES[element_type]
            else:
                for _ in range(length):
                    self._skip_value(element_type)
        else:
            raise ValueError(f"it holds a value of the unknown type {value_type}")
