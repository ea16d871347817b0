"""Weights in few bits: the last step of an export, from the plain graph in memory or on the disk."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.passes.matmul_nbits import FUSER_BLOCK, MODEL_BLOCK, MatMulNBits
from c2c_export.passes.quantize_weights import QuantizeWeights
from c2c_runtime.bundle import names

# Weights smaller than this stay inside the .onnx file: shape inference and ORT's rewrites read them.
_EXTERNAL_FROM_BYTES = 1024
# Two at a time: while one is transposed or packed, another is written.
_NUM_WRITERS, _MAX_IN_FLIGHT_BYTES = 2, 256 * 2**20


def quantize_weights(model: ir.Model, role: str, options: GraphOptions) -> None:
    """Store the weights of products as ``options.precision`` says; nothing changes where it says nothing."""
    weights = options.precision.weights
    if weights is None:
        return
    if options.dialect == "ort":
        block_size = FUSER_BLOCK if role == names.FUSER else MODEL_BLOCK
        MatMulNBits(weights, block_size)(model)
    else:
        QuantizeWeights(weights)(model)


def requantize_graph(plain: Path, directory: Path, role: str, options: GraphOptions) -> None:
    """Write the graph of ``role`` in few bits into ``directory``, from the plain one at ``plain``. Its
    inputs, outputs and number of parameters stay what they are."""
    model = ir.load(plain)
    quantize_weights(model, role, options)
    save_graph(model, directory, role)


def save_graph(model: ir.Model, directory: Path, role: str) -> Path:
    """Write ``<role>.onnx`` and ``<role>.onnx.data`` into ``directory``; returns the path of the first."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{role}.onnx"
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=_EXTERNAL_FROM_BYTES,
        max_workers=_NUM_WRITERS,
        max_in_flight_bytes=_MAX_IN_FLIGHT_BYTES,
    )
    return path
