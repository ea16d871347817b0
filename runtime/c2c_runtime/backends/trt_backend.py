"""TensorRT and TensorRT-RTX: engines over CUDA buffers, a decode step replayed as one CUDA graph."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from c2c_runtime.backends.backend import Buffer
from c2c_runtime.backends.cuda import Copy, Cuda, Stream
from c2c_runtime.backends.cuda_memory import CudaBuffer, CudaMemory
from c2c_runtime.backends.cuda_staging import Staging
from c2c_runtime.backends.trt import import_tensorrt, make_logger
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import EngineSpec
from c2c_runtime.errors import BundleError, C2CError, UsageError
from c2c_runtime.machine.engine_check import read_engine


class TensorRTBackend:
    """``Backend``: the engines of a bundle that were built for this machine."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, EngineSpec],
        *,
        stream: Stream | None = None,
        device: int = 0,
    ) -> None:
        """``engines`` by role, all of one backend, checked against this machine before. ``stream``: a
        stream of the caller for the Receiver and the Fuser; None: one for each bound graph."""
        self._bundle = bundle
        self._engines = engines
        self._stream = stream
        self._trt = import_tensorrt(next(iter(engines.values())).backend)
        self._logger = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._bound: weakref.WeakSet[BoundEngine] = weakref.WeakSet()
        self.cuda = Cuda(device)
        self.memory = CudaMemory(self.cuda)

    @property
    def loads_in_threads(self) -> bool:
        """Not tried."""
        return False

    @property
    def max_pass_len(self) -> None:
        """Not measured: no pass is cut."""

    def files_to_check(self, role: str) -> list[str]:
        """None: an engine is hashed as it is read, before TensorRT sees it, and graphs are not read."""
        return []

    def load(self, role: str) -> TensorRTGraph:
        """Deserialise the engine of a role. ``BundleError`` if TensorRT does not take it."""
        spec = self._engines[role]
        self.cuda.select()
        engine = self._runtime.deserialize_cuda_engine(read_engine(self._bundle, spec))
        if engine is None:
            raise BundleError.of(
                f"{spec.backend} {self._trt.__version__} cannot load {spec.path}: {self.messages()}",
                f"c2c-export build-engines {self._bundle.root} --backend {spec.backend} "
                f"--target {spec.target}",
            )
        stream = self._stream if role in (names.RECEIVER, names.FUSER) else None
        return TensorRTGraph(self, engine, stream)

    def close(self) -> None:
        """Free every context, stream, recording and buffer."""
        for bound in list(self._bound):
            bound.close()
        self.memory.close()

    def messages(self) -> str:
        """What TensorRT said since this was last asked, newest last."""
        text = "; ".join([*self._logger.messages][-5:])
        self._logger.messages.clear()
        return text or "TensorRT gave no reason"

    def own(self, bound: BoundEngine) -> BoundEngine:
        """Close ``bound`` when this backend closes."""
        self._bound.add(bound)
        return bound

    def create_context(self, engine: Any, *, is_fixed: bool) -> Any:
        """An execution context whose scratch memory follows the profile in use."""
        strategy = self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        specialise = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if specialise is None or not is_fixed:
            context = engine.create_execution_context(strategy)
        else:
            # TensorRT-RTX compiles kernels for new shapes on the device, in the background. A
            # recorded step would keep the general ones that it began with, so it waits for its own.
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.dynamic_shapes_kernel_specialization_strategy = specialise.EAGER
            context = engine.create_execution_context(config)
        if context is None:
            raise C2CError(
                f"TensorRT makes no execution context: {self.messages()}",
                "close other programs on the GPU; `c2c-export doctor` shows its free memory",
            )
        return context

    def is_input(self, engine: Any, name: str) -> bool:
        """Whether a tensor of an engine is an input."""
        return bool(engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)


class TensorRTGraph:
    """``Graph``: one engine."""

    def __init__(self, backend: TensorRTBackend, engine: Any, stream: Stream | None) -> None:
        self.backend = backend
        self.engine = engine
        self.stream = stream
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.input_names = frozenset(name for name in tensors if backend.is_input(engine, name))
        self.output_names = frozenset(tensors) - self.input_names
        self.is_in_place = {name: self._shares_memory(name) for name in self.output_names}

    def bind(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        *,
        is_fixed: bool = False,
    ) -> BoundEngine:
        """Tie buffers and host arrays by name, see ``backend.Graph``."""
        return self.backend.own(BoundEngine(self, inputs, outputs, is_fixed))

    def _shares_memory(self, output: str) -> bool:
        """Whether the engine updates an input in place and calls the result ``output``. Engines
        without KV-cache-update layers (before TensorRT 10.15) never do."""
        aliased = getattr(self.engine, "get_aliased_input_tensor", None)
        return aliased is not None and bool(aliased(output))


class BoundEngine:
    """``BoundGraph``: an execution context, a stream, and addresses for every tensor.

    A call with fixed shapes runs once as it is, is then recorded as a CUDA graph with its copies in
    and out, and is replayed from there on, in the stream that it ran in.
    """

    def __init__(
        self,
        graph: TensorRTGraph,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        is_fixed: bool,
    ) -> None:
        self._backend = graph.backend
        self._cuda = graph.backend.cuda
        self._cuda.select()
        self._engine = graph.engine
        self._context = graph.backend.create_context(graph.engine, is_fixed=is_fixed)
        self._owns_stream = graph.stream is None
        self._stream = self._cuda.create_stream() if graph.stream is None else graph.stream
        self._staging = Staging(graph.backend.memory, self._stream)
        self._is_fixed = is_fixed
        self._num_calls = 0
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._has_new_shapes = True
        self._recording: Any = None
        self._copies_back: list[tuple[CudaBuffer, CudaBuffer]] = []  # from, to
        self._kept = [
            *inputs.values(),
            *outputs.values(),
        ]  # alive as long as their addresses are used
        for name in sorted(graph.input_names & set(inputs)):
            self._tie_input(name, inputs[name])
        for name in sorted(graph.output_names):
            self._tie_output(name, outputs[name], graph.is_in_place[name])

    @property
    def is_recorded(self) -> bool:
        """Whether calls replay a CUDA graph."""
        return self._recording is not None

    def set_input(self, name: str, array: np.ndarray) -> None:
        """Tie an input to another host array."""
        self._tie_input(name, array)

    def start(self) -> None:
        """Put the call into the stream."""
        if self._context is None:
            raise UsageError("the session is closed", "open the bundle again")
        self._cuda.select()
        if self._recording is None and self._is_fixed and self._num_calls == 1:
            self._record()
        if self._recording is not None:
            self._cuda.replay(self._recording, self._stream)
        else:
            self._enqueue(self._stream)
        self._staging.begin_call()
        self._num_calls += 1

    def wait(self) -> None:
        """Return when the stream is empty."""
        self._cuda.wait(self._stream)

    def read(self, name: str) -> np.ndarray:
        """The host array of an output."""
        return self._staging.read(name)

    def close(self) -> None:
        """Free context, stream and recording. Calls after it are refused."""
        if self._context is None:
            return
        self._cuda.select()  # TensorRT frees what the context held
        self._context = None
        if self._recording is not None:
            self._cuda.destroy_recording(self._recording)
            self._recording = None
        if self._owns_stream:
            self._cuda.destroy_stream(self._stream)

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None and not sys.is_finalizing():
            self.close()

    def _tie_input(self, name: str, value: Buffer) -> None:
        if isinstance(value, CudaBuffer):
            pointer, shape = value.pointer, value.shape
        else:
            pointer, shape = self._staging.tie_input(name, value), value.shape
        self._set_address(name, pointer)
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._has_new_shapes = True

    def _tie_output(self, name: str, value: Buffer, is_in_place: bool) -> None:
        if not isinstance(value, CudaBuffer):
            self._set_address(name, self._staging.tie_output(name, value))
        elif is_in_place:
            self._set_address(name, value.pointer)
        else:
            # One for all graphs that write this cache: they run one after the other.
            apart = self._backend.memory.apart(value)
            self._copies_back.append((apart, value))
            self._set_address(name, apart.pointer)

    def _set_address(self, name: str, pointer: int) -> None:
        if not self._context.set_tensor_address(name, pointer):
            raise C2CError(f"TensorRT takes no memory for {name}: {self._backend.messages()}")

    def _enqueue(self, stream: Stream) -> None:
        """Copies in, the engine, copies back."""
        if self._has_new_shapes:
            self._set_shapes()
        self._staging.upload(stream)
        if not self._context.execute_async_v3(stream):
            raise C2CError(
                f"the engine did not run: {self._backend.messages()}", "run `c2c-export doctor`"
            )
        for source, target in self._copies_back:
            num_bytes = target.num_bytes
            self._cuda.copy(target.pointer, source.pointer, num_bytes, Copy.ON_DEVICE, stream)
        self._staging.download_small(stream)

    def _set_shapes(self) -> None:
        profile = self._find_profile()
        if profile != self._profile:
            self._context.set_optimization_profile_async(profile, self._stream)
            self._cuda.wait(self._stream)
            self._profile = profile
        for name, shape in self._shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise C2CError(
                    f"TensorRT takes no {name} of shape {shape}: {self._backend.messages()}"
                )
        self._has_new_shapes = False

    def _find_profile(self) -> int:
        """The profile in use if the shapes fit it, else the first that they fit."""
        numbers = list(range(self._engine.num_optimization_profiles))
        if self._profile is not None:
            numbers.sort(key=lambda number: number != self._profile)
        for number in numbers:
            if all(self._fits(name, shape, number) for name, shape in self._shapes.items()):
                return number
        raise C2CError(
            f"no profile of the engine takes inputs of these shapes: {self._shapes}",
            "build the engines again with a larger --max-prompt-len or --max-batch-size",
        )

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        fixed = tuple(self._engine.get_tensor_shape(name))
        if -1 not in fixed:  # profiles say nothing of such an input
            return shape == fixed
        least, _, most = self._engine.get_tensor_profile_shape(name, profile)
        return all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))

    def _record(self) -> None:
        """Record the call. An engine that cannot be recorded goes on running call by call."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is None or capturable(self._stream):
            self._recording = self._cuda.record(self._enqueue)
