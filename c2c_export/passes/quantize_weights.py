"""Pass: the weights of products are stored in 8 or 4 bits and dequantised in the graph.

Looked at first: onnxruntime's MatMulNBitsQuantizer writes DequantizeLinear too, but takes protobufs (a
model twice in memory, at most 2 GB), knows no fp8, and leaves a tied LM head alone; onnx-ir and onnxscript
quantise nothing. So the arithmetic is here, in numpy.

What TensorRT-RTX 1.7 makes of it (engines for sm89, products of 1024 x 4096): fp16 8.40 MB, int8 4.22, fp8
4.22, int4 in blocks of 32, 64, 128: 2.37, 2.24, 2.18. A quantised constant may feed DequantizeLinear only,
and one whose result a Gather reads is folded back to fp16: an embedding table stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from c2c_export.passes.graph_parts import add_weight, head_of, is_matrix, take_over
from c2c_runtime.bundle.precision import Weights

INT4_BLOCK = 32
_INT4_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a block's largest weight; the best is kept


@dataclass(frozen=True)
class Quantized:
    """A matrix [inputs, outputs] as numbers of few bits and their scales: [outputs], or a row of them
    for every block of ``block_size`` inputs."""

    values: np.ndarray
    scales: np.ndarray
    block_size: int | None = None

    def dequantized(self) -> np.ndarray:
        """As float32."""
        scales = self.scales.astype(np.float32)
        if self.block_size is not None:
            scales = np.repeat(scales, self.block_size, axis=0)
        return self.values.astype(np.float32) * scales


class QuantizeWeights(ir.passes.InPlacePass):
    """Rule: in MatMul(x, W), W a weight [inputs, outputs] of at least 1,024 elements, W becomes
    DequantizeLinear(q, scale). int8 and fp8: a scale an output. int4: a scale for every 32 inputs of an
    output; where the inputs are no multiple of 32, and in the product that gives the logits: int8 (with
    int4 there, the perplexity of SmolLM2-135M is 1.53 of fp32's, with int8 1.26).

    Gemm(x, W) without a bias is such a product, too. W may be the transpose of an embedding table that a
    Gather reads as well: the table stays for the Gather, and a quantised copy serves the product, so
    that a decode step reads few bits of it.
    Biases, norms and tables are left alone. Data is quantised here, one weight at a time.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any weight was quantised."""
        graph = model.graph
        head = head_of(graph)
        done: dict[tuple[str | None, bool], ir.Value] = {}
        for node in list(graph):
            weight, is_transposed = _weight_of(node)
            if weight is None or weight.const_value is None:
                continue
            kind: Weights = "int8" if node is head and self.weights == "int4" else self.weights
            if node.op_type == "Gemm":
                node = _as_matmul(graph, node)
            key = (weight.name, is_transposed)
            if key not in done:
                matrix = weight.const_value.numpy()
                quantized = quantize(matrix.T if is_transposed else matrix, kind)
                done[key] = _add(graph, node, f"{weight.name}.{kind}", quantized, weight)
            before = node.inputs[1]
            node.replace_input_with(1, done[key])
            producer = before.producer() if before is not None and not before.uses() else None
            if producer is not None:
                graph.remove(producer, safe=True)
            if not weight.uses() and weight.name is not None:
                del graph.initializers[weight.name]
        return ir.passes.PassResult(model, bool(done))


def quantize(matrix: np.ndarray, weights: Weights) -> Quantized:
    """A matrix [inputs, outputs] in few bits; scales are of the matrix's own type."""
    dtype, matrix = matrix.dtype, matrix.astype(np.float32)
    if weights == "int4" and matrix.shape[0] % INT4_BLOCK == 0:
        return _int4(matrix, dtype)
    largest = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float16).tiny)
    if weights == "fp8":
        scales = (largest / 448.0).astype(dtype)  # the largest number of float8 e4m3
        scales = np.maximum(scales, np.finfo(np.float16).smallest_subnormal.astype(dtype))
        values = (matrix / scales.astype(np.float32)).clip(-448, 448)
        return Quantized(values.astype(ml_dtypes.float8_e4m3fn), scales)
    scales = (largest / 127.0).astype(dtype)
    scales = np.maximum(scales, np.finfo(np.float16).smallest_subnormal.astype(dtype))
    values = np.rint(matrix / scales.astype(np.float32)).clip(-127, 127)
    return Quantized(values.astype(np.int8), scales)


def _int4(matrix: np.ndarray, dtype: np.dtype) -> Quantized:
    """Blocks of inputs; of a few ways to clip a block the one with the least squared error."""
    num_inputs, num_outputs = matrix.shape
    blocks = matrix.reshape(-1, INT4_BLOCK, num_outputs)
    least = np.finfo(np.float16).smallest_subnormal.astype(dtype)
    largest = np.abs(blocks).max(axis=1)
    best_error = np.full(largest.shape, np.inf, np.float32)
    best_scale = np.empty(largest.shape, dtype)
    for clip in _INT4_CLIPS:
        scale = np.maximum((largest * (clip / 7.0)).astype(dtype), least)
        wide = scale.astype(np.float32)[:, None]
        error = ((np.rint(blocks / wide).clip(-7, 7) * wide - blocks) ** 2).sum(axis=1)
        is_better = error < best_error
        best_error[is_better] = error[is_better]
        best_scale[is_better] = scale[is_better]
    values = np.rint(blocks / best_scale.astype(np.float32)[:, None]).clip(-7, 7)
    values = values.reshape(num_inputs, num_outputs).astype(np.int8).astype(ml_dtypes.int4)
    return Quantized(values, best_scale, INT4_BLOCK)


def _weight_of(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """The weight of a product, and whether it is transposed before."""
    weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
    if weight is None:
        return None, False
    if node.op_type == "Gemm":
        is_plain = len([i for i in node.inputs if i is not None]) == 2 and all(
            node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")
        )
        is_plain = is_plain and not node.attributes.get_int("transA", 0)
        is_transposed = bool(node.attributes.get_int("transB", 0))
        return (weight if is_plain and is_matrix(weight) else None), is_transposed
    producer = weight.producer()
    is_transposed = producer is not None and producer.op_type == "Transpose"
    if producer is not None and is_transposed:
        weight = producer.inputs[0]
    return (weight if weight is not None and is_matrix(weight) else None), is_transposed


def _as_matmul(graph: ir.Graph, gemm: ir.Node) -> ir.Node:
    product = ir.node("MatMul", gemm.inputs[:2])
    take_over(graph, gemm, product)
    return product


def _add(
    graph: ir.Graph, node: ir.Node, name: str, quantized: Quantized, weight: ir.Value
) -> ir.Value:
    """Put the numbers and their DequantizeLinear before ``node``; returns its result."""
    inputs = [
        add_weight(graph, name + suffix, ir.tensor(array, name=name + suffix))
        for suffix, array in (("", quantized.values), (".scale", quantized.scales))
    ]
    attributes = {"axis": 1} if quantized.block_size is None else {
        "axis": 0, "block_size": quantized.block_size
    }  # fmt: skip
    dequantize = ir.node("DequantizeLinear", inputs, attributes)
    graph.insert_before(node, dequantize)
    result = dequantize.outputs[0]
    result.name = f"{name}.dequantized"
    result.type = weight.type
    return result
