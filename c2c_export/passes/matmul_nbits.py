"""Pass: weights are stored in 8 or 4 bits, and ONNX Runtime's CPU products read them so.

What 4 bits lose, SmolLM2-135M, 512 tokens of docs/semantics.md (perplexity of fp32's, same best token).
By the weights alone (products also round their other side to 8 bits, see docs/precision.md):
every product in 4 bits 1.28, 63 %; the LM head in 8 bits 1.16, 72 %; queries, keys and values as well
1.11, 80 %; and the products that narrow (MLP down) 1.04, 90 %. 8 bits in blocks of 32: 1.000, 98 %; of
64: 1.004, 97 %. So what feeds attention, what narrows and what gives the logits keeps 8 bits.

Blocks of 32 for models: those of 64 or 128 lose more. A Fuser has blocks of 128: with them a product of
512 rows takes 0.5 of the time that blocks of 32 take, and of fp32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from c2c_export.passes.graph_parts import (
    add_weight,
    head_of,
    is_matrix,
    is_private,
    take_over,
)
from c2c_export.passes.linear import Linear, linear_of
from c2c_export.passes.quantize_blocks import Bits, QuantizedBlocks, quantize_blocks, quantize_table
from c2c_runtime.bundle.precision import Weights

MODEL_BLOCK, FUSER_BLOCK = 32, 128
_DOMAIN = "com.microsoft"
_INT8_PRODUCTS = 4  # accuracy level: a product rounds its other side to 8 bits, too, block by block
# What may lie between a product and the attention that reads it.
_ON_THE_WAY = (
    "Split", "Reshape", "Transpose", "SimplifiedLayerNormalization", "RotaryEmbedding"
)  # fmt: skip


class MatMulNBits(ir.passes.InPlacePass):
    """Rule: MatMul(x, W) and a sum with a bias after it become MatMulNBits; Gather(W, ids) of an
    embedding table becomes GatherBlockQuantized. A table that the LM head shares is stored once.

    Matrices of fewer than 1,024 elements stay as they are. ``bits`` 4 stores most products so, and the
    rest in 8 (see above). Data is quantised here, one weight at a time.
    """

    def __init__(self, weights: Weights, block_size: int = MODEL_BLOCK) -> None:
        super().__init__()
        self.bits: Bits = 4 if weights == "int4" else 8
        self.block_size = block_size

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any weight was quantised."""
        graph = model.graph
        head = head_of(graph)
        modified = self._quantize_tables(graph)
        for node in list(graph):
            table = _head_table(node)
            if table is not None and is_matrix(table) and is_private(table, rank=2):
                _replace_own_head(graph, node, table, self.block_size)
                modified = True
            linear = linear_of(node)
            if linear is None or not is_matrix(linear.weight):
                continue
            bits = self._bits_of(linear, is_head=node is head)
            _replace(graph, linear, bits, self.block_size)
            modified = True
        if modified:
            graph.opset_imports.setdefault(_DOMAIN, 1)
        return ir.passes.PassResult(model, modified)

    def _bits_of(self, linear: Linear, *, is_head: bool) -> Bits:
        assert linear.weight.const_value is not None
        num_inputs, num_outputs = linear.weight.const_value.shape.numpy()
        if is_head or num_inputs > num_outputs or _feeds_attention(linear.result):
            return 8
        return self.bits

    def _quantize_tables(self, graph: ir.Graph) -> bool:
        """Embedding tables, and the LM head's where it is the same."""
        modified = False
        for node in list(graph):
            table = node.inputs[0] if node.op_type == "Gather" else None
            if table is None or not is_matrix(table) or node.attributes.get_int("axis", 0) != 0:
                continue
            readers = [reader for reader in table.consumers() if reader is not node]
            heads = [reader for reader in readers if _head_table(reader) is table]
            rows = _array_of(table)
            if rows.shape[1] % self.block_size or len(heads) != len(readers):
                continue  # a row is no whole number of blocks, or somebody reads it otherwise
            blocks = quantize_table(rows, self.block_size)
            _replace_gather(graph, node, table, blocks)
            for reader in heads:
                _replace_head(graph, reader, table, blocks)
            if table.name is not None:
                del graph.initializers[table.name]
            modified = True
        return modified


def _feeds_attention(value: ir.Value) -> bool:
    for reader in value.consumers():
        if reader.op_type in ("GroupQueryAttention", "TensorScatter", "Attention"):
            return True
        passes_on = reader.op_type in _ON_THE_WAY
        if passes_on and any(_feeds_attention(output) for output in reader.outputs):
            return True
    return False


def _head_table(node: ir.Node) -> ir.Value | None:
    """W of Gemm(x, transposed W), with a bias [outputs] or none, and nothing more; else None."""
    if node.op_type != "Gemm":
        return None
    bias, attributes = _bias_of(node), node.attributes
    is_plain = (
        (bias is None or (bias.shape is not None and len(bias.shape) == 1))
        and bool(attributes.get_int("transB", 0))
        and not attributes.get_int("transA", 0)
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )
    return node.inputs[1] if is_plain else None


def _array_of(weight: ir.Value) -> np.ndarray:
    """A weight's numbers; computed here if passes before this one have changed them."""
    assert weight.const_value is not None
    array: np.ndarray = weight.const_value.numpy()
    return array


def _bias_of(gemm: ir.Node) -> ir.Value | None:
    return gemm.inputs[2] if len(gemm.inputs) == 3 else None


def _replace(graph: ir.Graph, linear: Linear, bits: Bits, block_size: int) -> None:
    matrix = _array_of(linear.weight)
    blocks = quantize_blocks(matrix.T, bits, block_size)
    weights = _add_blocks(graph, str(linear.weight.name), blocks)
    bias = linear.bias
    if bias is not None:
        assert bias.const_value is not None
        bias = add_weight(graph, f"{bias.name}.bias", bias.const_value)
    node = _product(linear.product.inputs[0], weights, bias, matrix.shape, blocks)
    graph.insert_before(linear.add or linear.product, node)
    linear.replace(graph, node.outputs[0])


def _product(
    x: ir.Value | None,
    weights: list[ir.Value | None],
    bias: ir.Value | None,
    shape: tuple[int, ...],
    blocks: QuantizedBlocks,
) -> ir.Node:
    num_inputs, num_outputs = shape
    inputs = [x, *weights, *([None, bias] if bias is not None else [])]
    attributes = {
        "K": num_inputs,
        "N": num_outputs,
        "bits": blocks.bits,
        "block_size": blocks.block_size,
        "accuracy_level": _INT8_PRODUCTS,
    }
    return ir.node("MatMulNBits", inputs, attributes, domain=_DOMAIN, version=1)


def _add_blocks(graph: ir.Graph, name: str, blocks: QuantizedBlocks) -> list[ir.Value | None]:
    """Values, scales and zero points (None where there are none) as weights of the graph."""
    name = f"{name}.int{blocks.bits}"
    values: list[ir.Value | None] = [
        add_weight(graph, name, ir.tensor(blocks.values, name=name)),
        add_weight(graph, f"{name}.scales", ir.tensor(blocks.scales, name=f"{name}.scales")),
    ]
    zeros = blocks.zero_points
    if zeros is None:
        return [*values, None]
    return [*values, add_weight(graph, f"{name}.zeros", ir.tensor(zeros, name=f"{name}.zeros"))]


def _replace_gather(
    graph: ir.Graph, gather: ir.Node, table: ir.Value, blocks: QuantizedBlocks
) -> None:
    name = f"{table.name}.int8"
    flat = blocks.values.reshape(len(blocks.values), -1)
    data = add_weight(graph, name, ir.tensor(flat, name=name))
    scales = add_weight(graph, f"{name}.scales", ir.tensor(blocks.scales, name=f"{name}.scales"))
    node = ir.node(
        "GatherBlockQuantized",
        [data, gather.inputs[1], scales],
        {"bits": 8, "block_size": blocks.block_size, "gather_axis": 0, "quantize_axis": 1},
        domain=_DOMAIN,
        version=1,
    )
    take_over(graph, gather, node)


def _replace_head(graph: ir.Graph, gemm: ir.Node, table: ir.Value, blocks: QuantizedBlocks) -> None:
    """The head reads the table's rows in the shape that MatMulNBits has for them."""
    name = f"{table.name}.int8"
    shape = add_weight(graph, f"{name}.blocks", ir.tensor(np.array(blocks.values.shape, np.int64)))
    reshape = ir.node("Reshape", [graph.initializers[name], shape])
    reshape.outputs[0].name = f"{name}.rows"
    graph.insert_before(gemm, reshape)
    num_outputs, num_blocks = blocks.scales.shape
    weights: list[ir.Value | None] = [
        reshape.outputs[0], graph.initializers[f"{name}.scales"], None
    ]  # fmt: skip
    size = (num_blocks * blocks.block_size, num_outputs)
    take_over(graph, gemm, _product(gemm.inputs[0], weights, _bias_of(gemm), size, blocks))


def _replace_own_head(graph: ir.Graph, gemm: ir.Node, table: ir.Value, block_size: int) -> None:
    rows = _array_of(table)
    blocks = quantize_blocks(rows, 8, block_size)
    weights = _add_blocks(graph, str(table.name), blocks)
    size = (rows.shape[1], rows.shape[0])
    take_over(graph, gemm, _product(gemm.inputs[0], weights, _bias_of(gemm), size, blocks))
    if table.name is not None:
        del graph.initializers[table.name]
