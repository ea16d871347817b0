"""Caches in a GPU's memory, and pinned host arrays beside them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from c2c_runtime.backends.cuda import Copy, Cuda, Pointer, array_at
from c2c_runtime.bundle.element_types import num_bytes
from c2c_runtime.errors import UsageError


class _Allocation:
    """Memory that is given back when the last buffer in it is gone, or when its owner closes."""

    def __init__(
        self, memory: CudaMemory, pointer: Pointer, num_bytes: int, *, is_host: bool = False
    ) -> None:
        self.pointer = pointer
        self.num_bytes = num_bytes
        free = memory.cuda.free_host if is_host else memory.cuda.free
        self.release = weakref.finalize(self, free, pointer)
        # The GPU's context goes with the process, and its driver may be gone before this runs.
        self.release.atexit = False


@dataclass(frozen=True)
class CudaBuffer:
    """A tensor in device memory. ``pointer`` is where its first element lies."""

    pointer: Pointer
    shape: tuple[int, ...]
    dtype: str
    allocation: _Allocation

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return num_bytes(self.shape, self.dtype)


class CudaMemory:
    """``Memory`` on one GPU. Buffers are cleared when they are made: a masked NaN that an earlier
    program left behind would still be NaN in a product."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._allocations: weakref.WeakSet[_Allocation] = weakref.WeakSet()
        self._apart: weakref.WeakKeyDictionary[_Allocation, CudaBuffer] = (
            weakref.WeakKeyDictionary()
        )

    def allocate(self, shape: tuple[int, ...], dtype: str) -> CudaBuffer:
        """Zeros. ``UnavailableError`` if the GPU has no room for them."""
        size = num_bytes(shape, dtype)
        allocation = _Allocation(self, self.cuda.allocate(size), size)
        self._allocations.add(allocation)
        self.cuda.clear(allocation.pointer, size)
        return CudaBuffer(allocation.pointer, shape, dtype, allocation)

    def allocate_like(self, buffer: CudaBuffer, shape: tuple[int, ...]) -> CudaBuffer:
        """Zeros."""
        return self.allocate(shape, buffer.dtype)

    def host_array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Zeros in pinned memory, which lives as long as the array and views of it do."""
        size = max(num_bytes(shape, dtype), 1)
        pointer = self.cuda.allocate_host(size)
        allocation = _Allocation(self, pointer, size, is_host=True)
        array = array_at(pointer, shape, dtype).view(_PinnedArray)
        array.allocation = allocation
        array[...] = 0
        return array

    def rows(self, buffer: CudaBuffer, start: int, stop: int) -> CudaBuffer:
        """A view: rows of the first axis lie one after the other."""
        row_bytes = buffer.num_bytes // buffer.shape[0]
        shape = (stop - start, *buffer.shape[1:])
        return CudaBuffer(
            buffer.pointer + start * row_bytes, shape, buffer.dtype, buffer.allocation
        )

    def apart(self, buffer: CudaBuffer) -> CudaBuffer:
        """The same part of memory of the same size, which lives as long as that of ``buffer``.

        One for each allocation, for all views of it: rows of a batch, and those rows together.
        """
        whole = buffer.allocation
        twin = self._apart.get(whole)
        if twin is None:
            twin = self._apart[whole] = self.allocate((whole.num_bytes,), "bool")  # as bytes
        pointer = twin.pointer + buffer.pointer - whole.pointer
        return CudaBuffer(pointer, buffer.shape, buffer.dtype, twin.allocation)

    def read(self, buffer: CudaBuffer, length: int) -> np.ndarray:
        """A copy of slots 0..length-1; bfloat16 comes as float32."""
        batch, heads, capacity, head_dim = buffer.shape
        slot_bytes = num_bytes((head_dim,), buffer.dtype)
        content = np.empty((batch, heads, length, head_dim), _host_dtype(buffer.dtype))
        self.cuda.copy_rows(
            content.ctypes.data,
            length * slot_bytes,
            buffer.pointer,
            capacity * slot_bytes,
            length * slot_bytes,
            batch * heads,
            Copy.TO_HOST,
        )
        return _float32_from_bfloat16(content) if buffer.dtype == "bfloat16" else content

    def write(self, buffer: CudaBuffer, content: np.ndarray) -> None:
        """Into slots 0..n-1, rounded to the buffer's type."""
        batch, heads, capacity, head_dim = buffer.shape
        length = content.shape[2]
        slot_bytes = num_bytes((head_dim,), buffer.dtype)
        if buffer.dtype == "bfloat16":
            content = _bfloat16_from_float32(content)
        content = np.ascontiguousarray(content, _host_dtype(buffer.dtype))
        self.cuda.copy_rows(
            buffer.pointer,
            capacity * slot_bytes,
            content.ctypes.data,
            length * slot_bytes,
            length * slot_bytes,
            batch * heads,
            Copy.TO_DEVICE,
        )

    def copy(self, source: CudaBuffer, target: CudaBuffer, length: int) -> None:
        """Slots 0..length-1."""
        batch, heads, capacity, head_dim = source.shape
        slot_bytes = num_bytes((head_dim,), source.dtype)
        self.cuda.copy_rows(
            target.pointer,
            target.shape[2] * slot_bytes,
            source.pointer,
            capacity * slot_bytes,
            length * slot_bytes,
            batch * heads,
            Copy.ON_DEVICE,
        )

    def shape_of(self, buffer: CudaBuffer) -> tuple[int, ...]:
        """Its shape."""
        return buffer.shape

    def size_bytes_of(self, buffer: CudaBuffer) -> int:
        """Its bytes."""
        return buffer.num_bytes

    def close(self) -> None:
        """Give all device memory back, whoever still refers to it. Pinned arrays go when nobody does:
        reading one must not crash."""
        for allocation in list(self._allocations):
            allocation.release()


class _PinnedArray(np.ndarray):
    """An array that keeps its pinned memory alive; views keep it through their base."""

    allocation: _Allocation | None = None

    def __array_finalize__(self, origin: object) -> None:
        self.allocation = getattr(origin, "allocation", None)


def _host_dtype(dtype: str) -> str:
    return "uint16" if dtype == "bfloat16" else dtype  # numpy has no bfloat16: its bits


def _float32_from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bfloat16_from_float32(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even."""
    finite = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(finite).all():
        raise UsageError("a cache with NaN or infinity cannot be loaded", "compute it again")
    bits = finite.view(np.uint32)
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded
