"""Stand-ins for a GPU: CUDA's runtime over host memory, and TensorRT's over ONNX Runtime on the CPU.

They let the runtime's own part of the work (addresses, sizes, offsets, order, recording, freeing) be
tested where there is no GPU. They prove nothing about CUDA, TensorRT or any kernel: that is the gpu tier.

A "device" pointer is the address of host memory, which copies reach like any other; memory that was
freed is unmapped from the books, and touching it through a copy is an error. A stream runs at once, or,
while it is being captured, keeps what it is told for the replay.

There are two GPUs. Each thread has a current one, GPU 0 at first, as with CUDA: memory and streams are
made on it, and what belongs to the other one is an error.
"""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
from cuda.bindings import runtime as real

SUCCESS = real.cudaError_t.cudaSuccess
OUT_OF_MEMORY = real.cudaError_t.cudaErrorMemoryAllocation
INVALID = real.cudaError_t.cudaErrorInvalidValue
NUM_DEVICES = 2
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class FakeCuda:
    """The functions of ``cuda.bindings.runtime`` that the runtime calls, returning tuples as it does."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode
    cudaGetErrorString = staticmethod(real.cudaGetErrorString)

    def __init__(self, capacity_bytes: int = 2**32) -> None:
        self.capacity_bytes = capacity_bytes
        self.devices: dict[int, int] = {}  # of everything ever made: memory and streams
        self._thread = threading.local()
        self.device_memory: dict[int, ctypes.Array] = {}
        self.pinned_memory: dict[int, ctypes.Array] = {}
        self.streams: set[int] = set()
        self.captures: dict[int, list[Callable[[], None]]] = {}
        self.recordings: set[int] = set()
        self.num_allocations = 0
        self.num_replays = 0
        self.num_copied_to_host = 0
        self._next_stream = 0x1000
        self._recorded: dict[int, list[Callable[[], None]]] = {}

    @property
    def used_bytes(self) -> int:
        return sum(len(block) for block in self.device_memory.values())

    def put(self, stream: int, action: Callable[[], None]) -> None:
        """Run now, or keep for the replay if the stream is being captured."""
        if stream in self.captures:
            self.captures[stream].append(action)
        else:
            action()

    def holds(self, address: int, num_bytes: int) -> bool:
        """Device addresses must lie in memory that is held; others are the host's own business."""
        for start, block in {**self.device_memory, **self.pinned_memory}.items():
            if start <= address < start + len(block):
                return address + num_bytes <= start + len(block)
        return True

    @property
    def current(self) -> int:
        """The calling thread's GPU."""
        return getattr(self._thread, "device", 0)

    def is_elsewhere(self, thing: int) -> bool:
        """Whether memory or a stream belongs to another GPU than the current one."""
        return self.devices.get(thing, self.current) != self.current

    def cudaSetDevice(self, device):
        if not 0 <= device < NUM_DEVICES:
            return (real.cudaError_t.cudaErrorInvalidDevice,)
        self._thread.device = device
        return (SUCCESS,)

    def cudaMalloc(self, size):
        if self.used_bytes + size > self.capacity_bytes:
            return OUT_OF_MEMORY, None
        block = (ctypes.c_ubyte * size)(
            *([0xFF] * min(size, 64))
        )  # what it holds is anyone's guess
        self.num_allocations += 1
        self.device_memory[ctypes.addressof(block)] = block
        self.devices[ctypes.addressof(block)] = self.current
        return SUCCESS, ctypes.addressof(block)

    def cudaFree(self, pointer):
        if self.is_elsewhere(pointer):
            return (INVALID,)
        return (SUCCESS if self.device_memory.pop(pointer, None) is not None else INVALID,)

    def cudaHostAlloc(self, size, flags):
        block = (ctypes.c_ubyte * size)()
        self.num_allocations += 1
        self.pinned_memory[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaFreeHost(self, pointer):
        return (SUCCESS if self.pinned_memory.pop(pointer, None) is not None else INVALID,)

    def cudaMemset(self, pointer, value, size):
        if self.is_elsewhere(pointer):
            return (INVALID,)
        assert self.holds(pointer, size)
        ctypes.memset(pointer, value, size)
        return (SUCCESS,)

    def cudaDeviceSynchronize(self):
        if self.captures:
            return (real.cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return (SUCCESS,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        if not (self.holds(target, size) and self.holds(source, size)) or self.is_elsewhere(stream):
            return (INVALID,)

        def move() -> None:
            if kind == real.cudaMemcpyKind.cudaMemcpyDeviceToHost:
                self.num_copied_to_host += size
            ctypes.memmove(target, source, size)

        self.put(stream, move)
        return (SUCCESS,)

    def cudaMemcpy2D(self, target, target_pitch, source, source_pitch, width, height, kind):
        last = height - 1
        if not (
            self.holds(target, last * target_pitch + width)
            and self.holds(source, last * source_pitch + width)
        ):
            return (INVALID,)
        for row in range(height):
            ctypes.memmove(target + row * target_pitch, source + row * source_pitch, width)
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags):
        self._next_stream += 1
        self.streams.add(self._next_stream)
        self.devices[self._next_stream] = self.current
        return SUCCESS, self._next_stream

    def cudaStreamDestroy(self, stream):
        if self.is_elsewhere(stream):
            return (INVALID,)
        self.streams.remove(stream)
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        assert stream not in self.captures, "a stream that is being captured cannot be waited for"
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captures[stream] = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        graph = 0x2000 + len(self._recorded)
        self._recorded[graph] = self.captures.pop(stream)
        return SUCCESS, graph

    def cudaGraphInstantiate(self, graph, flags):
        self.recordings.add(graph)
        return SUCCESS, graph

    def cudaGraphDestroy(self, graph):
        return (SUCCESS,)

    def cudaGraphLaunch(self, recording, stream):
        if self.is_elsewhere(stream):
            return (INVALID,)
        assert recording in self.recordings
        self.num_replays += 1
        for action in self._recorded[recording]:
            self.put(stream, action)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, recording):
        self.recordings.remove(recording)
        return (SUCCESS,)

    def cudaMemGetInfo(self):
        return SUCCESS, self.capacity_bytes - self.used_bytes, self.capacity_bytes


class FakeTensorRT:
    """The classes of TensorRT's runtime that the runtime uses. An "engine" is JSON: the path of an ONNX
    graph, profiles, and whether its outputs share their inputs' memory."""

    __version__ = "1.7.1.116"
    ILogger = SimpleNamespace
    ExecutionContextAllocationStrategy = SimpleNamespace(ON_PROFILE_CHANGE=1)
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.num_contexts = 0
        self.devices: set[int] = set()  # that engines and contexts were made on
        self.can_capture = True

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, content: bytes):
        self.devices.add(self.cuda.current)
        try:
            return _FakeEngine(self, json.loads(content))
        except ValueError:
            return None


class _FakeEngine:
    def __init__(self, trt: FakeTensorRT, described: dict) -> None:
        self.trt = trt
        self.profiles = described["profiles"]
        self.is_in_place = described["is_in_place"]
        self.session = ort.InferenceSession(described["onnx"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "input" if name in self.inputs else "output"

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else -1 for size in self.inputs[name].shape]

    def get_aliased_input_tensor(self, name):
        aliases = self.is_in_place and name.startswith("present.")
        return name.replace("present", "past") if aliases else None

    def get_tensor_profile_shape(self, name, profile):
        return self.profiles[profile]["shapes"][name]

    def create_execution_context(self, strategy):
        self.trt.num_contexts += 1
        self.trt.devices.add(self.trt.cuda.current)
        return _FakeContext(self)


class _FakeContext:
    def __init__(self, engine: _FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profile = 0
        self.num_calls = 0

    def is_stream_capturable(self, stream):
        return self.engine.trt.can_capture

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return True

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        self.shapes.clear()
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def execute_async_v3(self, stream):
        if set(self.shapes) != set(self.engine.inputs) or set(self.addresses) != set(
            self.engine.names
        ):
            return False
        cuda = self.engine.trt.cuda
        assert stream in cuda.streams or stream == CALLERS_STREAM
        assert not cuda.is_elsewhere(stream), "a stream of another GPU"
        # A capture keeps the shapes of its moment, as a CUDA graph keeps its kernels' arguments.
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        cuda.put(stream, lambda: self._compute(shapes, addresses))
        return True

    def _compute(self, shapes, addresses) -> None:
        self.num_calls += 1
        binding = self.engine.session.io_binding()
        symbols: dict[str, int] = {}
        for name, value in self.engine.inputs.items():
            symbols |= {
                symbol: size
                for symbol, size in zip(value.shape, shapes[name], strict=True)
                if isinstance(symbol, str)
            }
            binding.bind_input(name, "cpu", 0, DTYPES[value.type], shapes[name], addresses[name])
        for name, value in self.engine.outputs.items():
            shape = [symbols.get(size, size) for size in value.shape]
            num_bytes = int(np.prod(shape)) * np.dtype(DTYPES[value.type]).itemsize
            assert self.engine.trt.cuda.holds(addresses[name], num_bytes), f"{name} overruns"
            binding.bind_output(name, "cpu", 0, DTYPES[value.type], shape, addresses[name])
        self.engine.session.run_with_iobinding(binding)


CALLERS_STREAM = 0x77
