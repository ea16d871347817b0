"""Host arrays' places in device memory: what a bound graph copies over before a call and back after it."""

from __future__ import annotations

import numpy as np

from c2c_runtime.backends.cuda import Copy, Pointer, Stream
from c2c_runtime.backends.cuda_memory import CudaBuffer, CudaMemory

# Outputs up to this size come back with the call itself; a larger one when it is read.
_EAGER_BYTES = 1024


class Staging:
    """The host arrays that one bound graph reads and writes, and a device buffer for each.

    A buffer is made when its array is tied, and made again only for a larger array: a decode step
    allocates nothing. ``stream``: in which the graph computes, and large outputs are read.
    """

    def __init__(self, memory: CudaMemory, stream: Stream) -> None:
        self._memory = memory
        self._stream = stream
        self._inputs: dict[str, np.ndarray] = {}
        self._outputs: dict[str, np.ndarray] = {}
        self._buffers: dict[str, CudaBuffer] = {}
        self._is_current: set[str] = set()  # outputs that have come back since the last call

    def tie_input(self, name: str, array: np.ndarray) -> Pointer:
        """Where the graph will find ``array``."""
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: only contiguous memory can be bound")
        self._inputs[name] = array
        return self._buffer_for(name, array).pointer

    def tie_output(self, name: str, array: np.ndarray) -> Pointer:
        """Where the graph shall write what ``array`` is to hold."""
        self._outputs[name] = array
        return self._buffer_for(name, array).pointer

    def input_array(self, name: str) -> np.ndarray:
        """The array tied to an input."""
        return self._inputs[name]

    def upload(self, stream: Stream) -> None:
        """Put copies of all inputs into a stream."""
        for name, array in self._inputs.items():
            held = self._buffers[name].pointer
            self._copy(held, array.ctypes.data, array, Copy.TO_DEVICE, stream)

    def download_small(self, stream: Stream) -> None:
        """Put copies of all small outputs into a stream."""
        for name, array in self._outputs.items():
            if array.nbytes <= _EAGER_BYTES:
                held = self._buffers[name].pointer
                self._copy(array.ctypes.data, held, array, Copy.TO_HOST, stream)

    def begin_call(self) -> None:
        """Everything that came back before is old; small outputs come back with the call."""
        self._is_current = {n for n, array in self._outputs.items() if array.nbytes <= _EAGER_BYTES}

    def read(self, name: str) -> np.ndarray:
        """The array of an output, as the last complete call left it."""
        array = self._outputs[name]
        if name not in self._is_current:
            held = self._buffers[name].pointer
            self._copy(array.ctypes.data, held, array, Copy.TO_HOST, self._stream)
            self._memory.cuda.wait(self._stream)
            self._is_current.add(name)
        return array

    def _copy(
        self, target: Pointer, source: Pointer, array: np.ndarray, kind: Copy, stream: Stream
    ) -> None:
        self._memory.cuda.copy(target, source, array.nbytes, kind, stream)

    def _buffer_for(self, name: str, array: np.ndarray) -> CudaBuffer:
        held = self._buffers.get(name)
        if held is None or held.num_bytes < array.nbytes:
            # One axis of bytes: the graph gives it shape and type.
            held = self._memory.allocate((max(array.nbytes, 1),), "bool")
            self._buffers[name] = held
        return held
