"""Caches in the host's own memory: buffers are numpy arrays."""

from __future__ import annotations

import numpy as np


class HostMemory:
    """``Memory`` for backends that compute on the CPU. Nothing is ever copied by it but rows."""

    def allocate(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Zeros. numpy has no bfloat16, and no CPU backend computes in it."""
        return np.zeros(shape, dtype)

    def allocate_like(self, buffer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Zeros."""
        return np.zeros(shape, buffer.dtype)

    def host_array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Zeros."""
        return np.zeros(shape, dtype)

    def rows(self, buffer: np.ndarray, start: int, stop: int) -> np.ndarray:
        """A view."""
        return buffer[start:stop]

    def read(self, buffer: np.ndarray, length: int) -> np.ndarray:
        """A view."""
        return buffer[:, :, :length]

    def write(self, buffer: np.ndarray, content: np.ndarray) -> None:
        """Into slots 0..n-1."""
        buffer[:, :, : content.shape[2]] = content

    def copy(self, source: np.ndarray, target: np.ndarray, length: int) -> None:
        """Slots 0..length-1."""
        target[:, :, :length] = source[:, :, :length]

    def shape_of(self, buffer: np.ndarray) -> tuple[int, ...]:
        """Its shape."""
        return buffer.shape

    def size_bytes_of(self, buffer: np.ndarray) -> int:
        """Its bytes."""
        return buffer.nbytes
