"""How fast this machine reads memory: what bounds a decode step, which reads every weight once."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

_INPUTS = 2048
_MIB = 2**20


@dataclass(frozen=True)
class Bandwidth:
    """``how`` it was measured; the fastest of the ways that were tried. ``samples``: bytes a second."""

    how: str
    samples: tuple[float, ...]

    @property
    def bytes_per_s(self) -> float:
        """The median."""
        return statistics.median(self.samples)


def measure_bandwidth(
    num_threads: int | None = None, num_mib: int = 512, num_rounds: int = 9
) -> Bandwidth:
    """Read ``num_mib`` again and again, far more than any processor caches.

    Two ways, and the faster one counts: a product of one row with a matrix on ONNX Runtime, as a
    decode step is made of (where onnx is installed), and a dot product a thread in numpy.
    """
    num_threads = num_threads or os.cpu_count() or 1
    matrix = np.ones((_INPUTS, num_mib * _MIB // 4 // _INPUTS), np.float32)
    ways = {f"numpy, a dot product in each of {num_threads} threads": _dot(matrix, num_threads)}
    product = _product(matrix, num_threads)
    if product is not None:
        ways[f"ONNX Runtime, MatMul of one row, {num_threads} threads"] = product
    results = []
    for how, read in ways.items():
        read()
        samples = []
        for _ in range(num_rounds):
            started = time.perf_counter()
            read()
            samples.append(matrix.nbytes / (time.perf_counter() - started))
        results.append(Bandwidth(f"{how}, {matrix.nbytes // _MIB} MiB", tuple(samples)))
    return max(results, key=lambda result: result.bytes_per_s)


def _dot(matrix: np.ndarray, num_threads: int) -> Callable[[], object]:
    parts = np.array_split(matrix.reshape(-1), num_threads)
    pool = ThreadPoolExecutor(num_threads)
    return lambda: list(pool.map(lambda part: np.dot(part, part), parts))


def _product(matrix: np.ndarray, num_threads: int) -> Callable[[], object] | None:
    try:
        import onnxruntime as ort
        from onnx import TensorProto, helper
    except ImportError:
        return None
    row = np.ones((1, matrix.shape[0]), np.float32)
    result = np.zeros((1, matrix.shape[1]), np.float32)

    def value(name: str, array: np.ndarray) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["row", "matrix"], ["result"])],
        "read",
        [value("row", row), value("matrix", matrix)],
        [value("result", result)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("row", row)
    binding.bind_cpu_input("matrix", matrix)
    kept = ort.OrtValue.ortvalue_from_numpy(result)
    binding.bind_ortvalue_output("result", kept)
    return lambda: (session.run_with_iobinding(binding), kept)
