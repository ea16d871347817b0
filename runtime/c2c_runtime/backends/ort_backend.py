"""ONNX Runtime on CPU: the one module that knows it. Backends for other devices stand beside it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from c2c_runtime.backends.host_memory import HostMemory
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import BundleError, UnavailableError
from c2c_runtime.machine.cores import check_num_threads, num_usable_cores

_shared: WeakValueDictionary[tuple[object, ...], OrtGraph] = WeakValueDictionary()
# One lock a graph, for as long as somebody loads it.
_locks: WeakValueDictionary[tuple[object, ...], threading.Lock] = WeakValueDictionary()
_locks_guard = threading.Lock()


class OrtBackend:
    """``Backend``: every graph of a bundle as an ONNX Runtime session on the CPU.

    A graph that another session of this process has loaded from the same file is shared with it: one
    set of weights. It goes when the last session and conversation that use it are gone.
    """

    loads_in_threads = True
    # Attention computes scores of all tokens of a pass with all that are held, also of those that come
    # later, and keeps them for a while: float32 [heads, tokens of the pass, capacity]. With passes of 256
    # a prompt of 1024 tokens of SmolLM2-135M takes 0.8 of the time of one pass; 128 and 512 are slower.
    max_pass_len = 256

    def __init__(self, bundle: Bundle, num_threads: int | None = None) -> None:
        """``num_threads`` None: one a core that this process may use."""
        check_num_threads(num_threads)
        self._bundle = bundle
        self._num_threads = num_threads or num_usable_cores()
        self.memory = HostMemory()

    def files_to_check(self, role: str) -> list[str]:
        """The graph and its weights."""
        return self._bundle.files_of(role)

    def load(self, role: str) -> OrtGraph:
        """The graph of a role."""
        spec = self._bundle.graph(role)
        if any(tensor.dtype == "bfloat16" for tensor in spec.inputs):
            raise UnavailableError(
                "ONNX Runtime has no bfloat16 on CPUs, and this bundle was built in it",
                "run it on a GPU, or build it with --precision fp32 (fp16 works too, slowly)",
            )
        path = self._bundle.path_of(spec.path)
        key = (*_identity(path), self._bundle.manifest.digest, self._num_threads)
        with _lock_of(key):
            graph = _shared.get(key)
            if graph is None:
                graph = _shared[key] = OrtGraph(path, self._num_threads)
            return graph

    def close(self) -> None:
        """Nothing is held here."""


def _lock_of(key: tuple[object, ...]) -> threading.Lock:
    with _locks_guard:
        return _locks.setdefault(key, threading.Lock())


def _identity(path: Path) -> tuple[object, ...]:
    """What tells a file from one that took its place: a bundle that was built again is another."""
    stat = path.stat()
    return str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_mtime_ns


class OrtGraph:
    """``Graph``: one ONNX graph, loaded.

    Binding is by memory: a numpy array bound as ``past`` and as ``present`` is updated in place.
    Small inputs that change at every call are bound once too, and rewritten between calls.
    """

    def __init__(self, path: Path, num_threads: int | None) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Products with dequantised weights compute in fp32; by default their other side is rounded to
        # 8 bits as well.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        # Every graph has threads of its own. By default they go on spinning when a run is over, on the
        # cores that the next graph of the chain needs: a first token then takes a third longer on two cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        self.ort = ort
        self.session = load_session(ort, path, options, ["CPUExecutionProvider"])
        self.input_names = frozenset(value.name for value in self.session.get_inputs())
        self.output_names = frozenset(value.name for value in self.session.get_outputs())

    def bind(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        *,
        is_fixed: bool = False,
    ) -> BoundOrtGraph:
        """Tie arrays by name, see ``backend.Graph``."""
        bound = BoundOrtGraph(self)
        for name in self.input_names:
            if name in inputs:
                bound.set_input(name, inputs[name])
        for name in self.output_names:
            bound.set_output(name, outputs[name])
        return bound


class BoundOrtGraph:
    """``BoundGraph``: inputs and outputs are tied to arrays; a call moves no pointers."""

    def __init__(self, graph: OrtGraph) -> None:
        self._graph = graph  # shared for as long as anything is bound to it
        self._ort_value = graph.ort.OrtValue
        self._session = graph.session
        self._binding = graph.session.io_binding()
        self._kept: dict[tuple[str, str], tuple[object, np.ndarray]] = {}

    def set_input(self, name: str, array: np.ndarray) -> None:
        """Tie an input to ``array``; replaces what was tied to it."""
        value = self._value("input", name, array)
        self._binding.bind_ortvalue_input(name, value)

    def set_output(self, name: str, array: np.ndarray) -> None:
        """Tie an output to ``array``, which it is written into."""
        value = self._value("output", name, array)
        self._binding.bind_ortvalue_output(name, value)

    def start(self) -> None:
        """Compute, from and into the tied memory."""
        self._session.run_with_iobinding(self._binding)

    def wait(self) -> None:
        """Nothing is under way when ``start`` has returned."""

    def read(self, name: str) -> np.ndarray:
        """The array tied to an output."""
        return self._kept["output", name][1]

    def _value(self, direction: str, name: str, array: np.ndarray) -> object:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: only contiguous memory can be bound")
        value = self._ort_value.ortvalue_from_numpy(array)  # shares the array's memory on CPU
        self._kept[direction, name] = (value, array)
        return value


def load_session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    """An ONNX Runtime session. Raises ``BundleError`` if the graph cannot be loaded."""
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise BundleError.of(
            f"ONNX Runtime {ort.__version__} cannot load {path}: {error}", "rebuild it"
        ) from error


def import_onnxruntime() -> Any:
    """The module. Raises ``UnavailableError`` where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "onnxruntime is not installed",
            "pip install 'c2c-export[cpu]' (or [gpu] on a machine with an NVIDIA GPU)",
        ) from error
    return onnxruntime
