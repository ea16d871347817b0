"""The CUDA calls that the runtime makes, each checked: cuda-bindings without its error tuples.

Pointers and streams are ints. Every function raises: ``UnavailableError`` where memory has run out or no
GPU can be used, ``C2CError`` for anything else.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from c2c_runtime.errors import C2CError, UnavailableError

Pointer = int
Stream = int

# Nobody may wait for the whole GPU while a stream of it is recorded: CUDA ends the recording.
_recording = threading.Lock()


class Copy(IntEnum):
    """Direction of a copy, as cudaMemcpyKind counts them."""

    TO_DEVICE = 1
    TO_HOST = 2
    ON_DEVICE = 3


class Cuda:
    """One GPU through the CUDA runtime library.

    Every call makes its GPU the calling thread's first: which one is current is kept by thread, each
    begins with GPU 0, and the garbage collector frees from any of them.
    """

    def __init__(self, device: int = 0) -> None:
        self._api = import_cuda()
        self.device = device
        self.select()

    def select(self) -> None:
        """Make this GPU the calling thread's, for a library that computes on the current one."""
        self._check("cudaSetDevice", self.device)

    def allocate(self, num_bytes: int) -> Pointer:
        """Device memory, not cleared."""
        return int(self._call("cudaMalloc", num_bytes))

    def free(self, pointer: Pointer) -> None:
        """Give device memory back."""
        self._call("cudaFree", pointer)

    def allocate_host(self, num_bytes: int) -> Pointer:
        """Host memory that a GPU can read and write by itself (pinned), not cleared."""
        return int(self._call("cudaHostAlloc", num_bytes, 0))

    def free_host(self, pointer: Pointer) -> None:
        """Give pinned memory back."""
        self._call("cudaFreeHost", pointer)

    def clear(self, pointer: Pointer, num_bytes: int) -> None:
        """Fill device memory with zeros; complete on return."""
        with _recording:
            self._call("cudaMemset", pointer, 0, num_bytes)
            self._call("cudaDeviceSynchronize")

    def copy(
        self, target: Pointer, source: Pointer, num_bytes: int, kind: Copy, stream: Stream
    ) -> None:
        """Copy in the order of a stream."""
        self._call("cudaMemcpyAsync", target, source, num_bytes, self._kind(kind), stream)

    def copy_rows(
        self,
        target: Pointer,
        target_pitch: int,
        source: Pointer,
        source_pitch: int,
        row_bytes: int,
        num_rows: int,
        kind: Copy,
    ) -> None:
        """Copy the first ``row_bytes`` of every row; rows lie ``pitch`` bytes apart. Complete on
        return, after everything else the GPU was told before."""
        if not row_bytes or not num_rows:
            return
        with _recording:
            self._call("cudaDeviceSynchronize")
            self._call(
                "cudaMemcpy2D",
                target,
                target_pitch,
                source,
                source_pitch,
                row_bytes,
                num_rows,
                self._kind(kind),
            )
            self._call("cudaDeviceSynchronize")

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", 1))

    def destroy_stream(self, stream: Stream) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: Stream) -> None:
        """Return when everything in a stream is complete."""
        self._call("cudaStreamSynchronize", stream)

    def record(self, work: Callable[[Stream], None]) -> Any:
        """What ``work`` puts into the stream it is given, not run but ready to ``replay`` in any stream.

        The stream is made for this: in one that others use, what they put into it meanwhile would be
        recorded too, instead of run. Raises what ``work`` raises.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with _recording:
            stream = self.create_stream()
            try:
                self._call("cudaStreamBeginCapture", stream, mode)
                try:
                    work(stream)
                except BaseException:
                    self._drop_recording(stream)
                    raise
                graph = self._call("cudaStreamEndCapture", stream)
            finally:
                self._try("cudaStreamDestroy", stream)
            try:
                return self._call("cudaGraphInstantiate", graph, 0)
            finally:
                self._try("cudaGraphDestroy", graph)

    def replay(self, recorded: Any, stream: Stream) -> None:
        """Put a recording into a stream."""
        self._call("cudaGraphLaunch", recorded, stream)

    def destroy_recording(self, recorded: Any) -> None:
        """Give a recording back."""
        self._call("cudaGraphExecDestroy", recorded)

    def free_bytes(self) -> int:
        """Device memory that nobody holds."""
        return int(self._call("cudaMemGetInfo")[0])

    def _kind(self, kind: Copy) -> Any:
        return self._api.cudaMemcpyKind(int(kind))

    def _drop_recording(self, stream: Stream) -> None:
        graph = self._try("cudaStreamEndCapture", stream)
        if graph:
            self._try("cudaGraphDestroy", graph)

    def _try(self, function: str, *args: Any) -> Any:
        """To clear up: an error of it is not raised, for it would hide the one that came first. None
        then, else what the function returns."""
        try:
            return self._call(function, *args)
        except C2CError:
            return None

    def _call(self, function: str, *args: Any) -> Any:
        """What a function of the CUDA runtime returns on this GPU."""
        self.select()
        return self._check(function, *args)

    def _check(self, function: str, *args: Any) -> Any:
        """What a function of the CUDA runtime returns behind its error code."""
        error, *results = getattr(self._api, function)(*args)
        if error != self._api.cudaError_t.cudaSuccess:
            self._fail(function, error, args)
        return results[0] if len(results) == 1 else tuple(results)

    def _fail(self, function: str, error: Any, args: tuple[Any, ...]) -> None:
        _, text = self._api.cudaGetErrorString(error)
        message = text.decode() if isinstance(text, bytes) else str(text)
        if error == self._api.cudaError_t.cudaErrorMemoryAllocation:
            where = "pinned host memory" if function == "cudaHostAlloc" else "GPU memory"
            raise UnavailableError(
                f"there is not enough {where} for {args[0]:,} bytes",
                "close other programs on the GPU or conversations of this one, or build the bundle "
                "with a smaller --max-seq-len or --max-batch-size",
            )
        if function == "cudaSetDevice":
            raise UnavailableError(
                f"no GPU can be used here: {message}",
                "run `c2c-export doctor` to see what is missing",
            )
        raise C2CError(
            f"{function} failed: {message}",
            "run `c2c-export doctor`; if it sees no fault, report this",
        )


def array_at(pointer: Pointer, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Host memory at an address as an array. Whoever allocated it keeps it alive."""
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = memoryview((ctypes.c_byte * num_bytes).from_address(pointer))
    array: np.ndarray = np.frombuffer(raw, np.dtype(dtype)).reshape(shape)
    return array


def import_cuda() -> Any:
    """cuda-bindings' module of the CUDA runtime. ``UnavailableError`` where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UnavailableError(
            f"cuda-bindings is not installed ({error})", "pip install 'c2c-export[gpu]'"
        ) from error
    return runtime
