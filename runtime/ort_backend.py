"""ONNX Runtime on CPU: the one class that knows it. A backend for another device stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from c2c_runtime.errors import BundleError, UnavailableError


class OrtGraph:
    """One ONNX graph with the buffers bound to it.

    Binding is by memory: a numpy array bound as ``past`` and as ``present`` is updated in place.
    Small inputs that change at every call are bound once too, and rewritten between calls.
    """

    def __init__(self, path: Path, num_threads: int | None) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError.of(
                f"ONNX Runtime {ort.__version__} cannot load {path}: {error}", "rebuild it"
            ) from error
        self._ort = ort
        self.input_names = {value.name for value in self._session.get_inputs()}
        self.output_names = [value.name for value in self._session.get_outputs()]

    def bind(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> BoundGraph:
        """Bind arrays by name. Names that the graph does not have are left out, so that a caller
        can offer everything it keeps; a name that the graph needs and is not offered is a KeyError."""
        bound = BoundGraph(self._ort, self._session)
        for name in self.input_names:
            if name in inputs:
                bound.set_input(name, inputs[name])
        for name in self.output_names:
            bound.set_output(name, outputs[name])
        return bound


class BoundGraph:
    """A graph whose inputs and outputs are tied to memory; ``run`` moves no pointers."""

    def __init__(self, ort: Any, session: Any) -> None:
        self._ort_value = ort.OrtValue
        self._session = session
        self._binding = session.io_binding()
        self._kept: dict[tuple[str, str], object] = {}

    def set_input(self, name: str, array: np.ndarray) -> None:
        """Tie an input to ``array``; replaces what was tied to it."""
        value = self._value("input", name, array)
        self._binding.bind_ortvalue_input(name, value)

    def set_output(self, name: str, array: np.ndarray) -> None:
        """Tie an output to ``array``, which it is written into."""
        value = self._value("output", name, array)
        self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """Compute, from and into the tied memory."""
        self._session.run_with_iobinding(self._binding)

    def _value(self, direction: str, name: str, array: np.ndarray) -> object:
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: only contiguous memory can be bound")
        value = self._ort_value.ortvalue_from_numpy(array)  # shares the array's memory on CPU
        self._kept[direction, name] = (value, array)
        return value


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "onnxruntime is not installed",
            "pip install 'c2c-export[cpu]' (or [gpu] on a machine with an NVIDIA GPU)",
        ) from error
    return onnxruntime
