"""ONNX Runtime on CUDA: the graphs of a bundle over buffers in a GPU's memory."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from c2c_runtime.backends.backend import Buffer
from c2c_runtime.backends.cuda import Cuda, Stream
from c2c_runtime.backends.cuda_memory import CudaBuffer, CudaMemory
from c2c_runtime.backends.cuda_staging import Staging
from c2c_runtime.backends.ort_backend import import_onnxruntime, load_session
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import UnavailableError, UsageError

PROVIDER = "CUDAExecutionProvider"
_BFLOAT16 = 16  # ONNX's number of the type that numpy has not


class OrtCudaBackend:
    """``Backend``: every graph of a bundle as an ONNX Runtime session on one GPU."""

    provider = PROVIDER
    device_name = "cuda"
    # Without this, operators that CUDA has no kernel for would run on the CPU, caches copied each time.
    session_config: Mapping[str, str] = {"session.disable_cpu_ep_fallback": "1"}

    def __init__(self, bundle: Bundle, *, stream: Stream | None = None, device: int = 0) -> None:
        """``stream``: a stream of the caller for the Receiver and the Fuser."""
        ort = import_onnxruntime()
        if self.provider not in ort.get_available_providers():
            raise UnavailableError(
                f"the installed onnxruntime {ort.__version__} has no {self.provider}",
                "pip uninstall onnxruntime, then pip install 'c2c-export[gpu]'",
            )
        self._ort = ort
        self._bundle = bundle
        self._stream = stream
        self._bound: weakref.WeakSet[BoundOrtCudaGraph] = weakref.WeakSet()
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
        """The graph and its weights."""
        return self._bundle.files_of(role)

    def load(self, role: str) -> OrtCudaGraph:
        """The graph of a role. ``UnavailableError`` if ONNX Runtime would run it on the CPU."""
        path = self._bundle.path_of(self._bundle.graph(role).path)
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        for key, value in self.session_config.items():
            options.add_session_config_entry(key, value)
        stream = self._stream if role in (names.RECEIVER, names.FUSER) else None
        session = load_session(self._ort, path, options, [(self.provider, self._settings(stream))])
        return OrtCudaGraph(self, session)

    def close(self) -> None:
        """Free all streams and buffers."""
        for bound in list(self._bound):
            bound.close()
        self.memory.close()

    def own(self, bound: BoundOrtCudaGraph) -> BoundOrtCudaGraph:
        """Close ``bound`` when this backend closes."""
        self._bound.add(bound)
        return bound

    def _settings(self, stream: Stream | None) -> dict[str, str]:
        settings = {"device_id": str(self.cuda.device)}
        if stream is not None:
            settings["user_compute_stream"] = str(stream)
        return settings


class OrtCudaGraph:
    """``Graph``: one ONNX Runtime session."""

    def __init__(self, backend: OrtCudaBackend, session: Any) -> None:
        self.backend = backend
        self.session = session
        self.input_names = frozenset(value.name for value in session.get_inputs())
        self.output_names = frozenset(value.name for value in session.get_outputs())

    def bind(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        *,
        is_fixed: bool = False,
    ) -> BoundOrtCudaGraph:
        """Tie buffers and host arrays by name, see ``backend.Graph``."""
        bound = self.backend.own(BoundOrtCudaGraph(self))
        for name in sorted(self.input_names & set(inputs)):
            bound.set_input(name, inputs[name])
        for name in sorted(self.output_names):
            bound.set_output(name, outputs[name])
        return bound


class BoundOrtCudaGraph:
    """``BoundGraph``: addresses on the device for every tensor."""

    def __init__(self, graph: OrtCudaGraph) -> None:
        self._backend = graph.backend
        self._session = graph.session
        self._binding = graph.session.io_binding()
        self._stream = graph.backend.cuda.create_stream()
        self._staging = Staging(graph.backend.memory, self._stream)
        self._kept: dict[str, CudaBuffer] = {}  # alive as long as their addresses are used

    def set_input(self, name: str, value: Buffer) -> None:
        """Tie an input to a buffer, or to a host array that is copied over at every call."""
        pointer = self._pointer(name, value, self._staging.tie_input)
        self._binding.bind_input(name, *self._where(), *_what(value), pointer)

    def set_output(self, name: str, value: Buffer) -> None:
        """Tie an output to a buffer, or to a host array that it can be read into."""
        pointer = self._pointer(name, value, self._staging.tie_output)
        self._binding.bind_output(name, *self._where(), *_what(value), pointer)

    def start(self) -> None:
        """Copy over, compute. Complete on return, but for copies back."""
        if self._binding is None:
            raise UsageError("the session is closed", "open the bundle again")
        cuda = self._backend.cuda
        self._staging.upload(self._stream)
        cuda.wait(self._stream)  # ONNX Runtime computes in a stream of its own
        self._session.run_with_iobinding(self._binding)
        self._staging.download_small(self._stream)
        self._staging.begin_call()

    def wait(self) -> None:
        """Return when the copies back are complete."""
        self._backend.cuda.wait(self._stream)

    def read(self, name: str) -> np.ndarray:
        """The host array of an output."""
        return self._staging.read(name)

    def close(self) -> None:
        """Free the stream. Calls after it are refused."""
        if self._binding is not None:
            self._binding = None
            self._backend.cuda.destroy_stream(self._stream)

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_stream"):
            self.close()

    def _pointer(self, name: str, value: Buffer, tie: Callable[[str, np.ndarray], int]) -> int:
        if isinstance(value, CudaBuffer):
            self._kept[name] = value
            return value.pointer
        return tie(name, value)

    def _where(self) -> tuple[str, int]:
        return self._backend.device_name, self._backend.cuda.device


def _what(value: Buffer) -> tuple[Any, tuple[int, ...]]:
    """Element type and shape, as a binding wants them."""
    if isinstance(value, CudaBuffer):
        is_numpy = value.dtype != "bfloat16"
        return np.dtype(value.dtype).type if is_numpy else _BFLOAT16, value.shape
    return value.dtype.type, value.shape
