"""Module -> graph -> ONNX file: trace, rewrite, save with external weights, describe.

Shared by the exports of Sharer, Receiver and Fuser, which only differ in module and signature.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.lowering.rotary_tables import ROTARY_MODULE
from c2c_export.passes import apply_passes
from c2c_export.passes.matmul_nbits import FUSER_BLOCK, MODEL_BLOCK, MatMulNBits
from c2c_export.passes.quantize_weights import QuantizeWeights
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, ModelDims, TensorSpec

# Weights smaller than this stay inside the .onnx file: shape inference and ORT's rewrites read them.
_EXTERNAL_FROM_BYTES = 1024
# Two at a time: while one is transposed or packed, another is written.
_NUM_WRITERS, _MAX_IN_FLIGHT_BYTES = 2, 256 * 2**20


@dataclass(frozen=True)
class Signature:
    """A graph's example inputs and names, in the order in which ``forward`` flattens them.

    ``dynamic_shapes`` follows torch.export: one entry a forward argument.
    """

    args: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]
    input_names: Sequence[str]
    output_names: Sequence[str]


def trace(module: nn.Module, signature: Signature, opset: int) -> ir.Model:
    """The graph that ``module`` computes, as it is traced: no pass has run yet."""
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            signature.args,
            dynamo=True,
            opset_version=opset,
            optimize=False,  # apply_passes does what this would, without the slow rule matching
            verbose=False,
            dynamic_shapes=signature.dynamic_shapes,
            input_names=list(signature.input_names),
            output_names=list(signature.output_names),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program.model


def write_graph(model: ir.Model, role: str, directory: Path, options: GraphOptions) -> GraphSpec:
    """Rewrite a traced graph and write ``<role>.onnx`` and ``<role>.onnx.data`` into ``directory``.

    Returns the graph's description; its path is relative to the bundle's root, two folders up.
    """
    apply_passes(model, options.dialect)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{role}.onnx"
    num_parameters = _num_parameters(model)
    weights = options.precision.weights
    if weights is not None and options.dialect == "ort":
        block_size = FUSER_BLOCK if role == names.FUSER else MODEL_BLOCK
        MatMulNBits(weights, block_size)(model)
    elif weights is not None:
        QuantizeWeights(weights)(model)
    ir.save(
        model,
        path,
        external_data=f"{role}.onnx.data",
        size_threshold_bytes=_EXTERNAL_FROM_BYTES,
        max_workers=_NUM_WRITERS,
        max_in_flight_bytes=_MAX_IN_FLIGHT_BYTES,
    )
    return GraphSpec(
        role=role,
        dialect=options.dialect,
        path=f"graphs/{options.dialect}/{path.name}",
        inputs=tuple(_tensor_spec(value) for value in model.graph.inputs),
        outputs=tuple(_tensor_spec(value) for value in model.graph.outputs),
        num_parameters=num_parameters,
    )


def _num_parameters(model: ir.Model) -> int:
    """Numbers that the model learned: rotary tables are computed."""
    return sum(
        value.const_value.size
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype.is_floating_point()
        and f".{ROTARY_MODULE}." not in name
    )


def _tensor_spec(value: ir.Value) -> TensorSpec:
    if value.name is None or value.dtype is None or value.shape is None:
        raise RuntimeError(f"graph input or output {value.name} has no name, type or shape")
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    return TensorSpec(name=value.name, dtype=value.dtype.numpy().name, shape=shape)


def example_cache(dims: ModelDims, options: GraphOptions) -> Tensor:
    """A cache to trace with, [2, kv_heads, max_seq_len, head_dim]: a traced size of 1 would be baked
    in. Its memory is never touched."""
    capacity = options.max_seq_len or 16
    return torch.zeros(2, dims.num_kv_heads, capacity, dims.head_dim, dtype=options.dtype)


def cache_shape(options: GraphOptions) -> dict[int, Any]:
    """A cache's dimensions that are symbols, as torch.export takes them."""
    batch = {0: Dim("batch", min=1)}
    return batch if options.max_seq_len else batch | {2: Dim("max_seq_len", min=1)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress prints and deprecation warnings off the user's terminal."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
