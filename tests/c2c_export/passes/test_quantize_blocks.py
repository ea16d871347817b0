"""Weights in 8 and 4 bits for ONNX Runtime's CPU products: the numbers, and what a graph makes of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from text_graphs import model_of, operators, run

from c2c_export.passes.matmul_nbits import MatMulNBits
from c2c_export.passes.quantize_blocks import quantize_blocks, quantize_table

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def bits_of(model: ir.Model) -> list[int]:
    return [
        node.attributes.get_int("bits") for node in model.graph if node.op_type == "MatMulNBits"
    ]


@pytest.mark.parametrize("num_inputs", [64, 80])
@pytest.mark.parametrize(("bits", "largest_error"), [(8, 0.02), (4, 0.35)])
def test_a_matrix_comes_back_within_half_a_step(bits, largest_error, num_inputs):
    rows = normal(48, num_inputs)
    blocks = quantize_blocks(rows, bits, 32)
    assert blocks.values.nbytes == 48 * -(-num_inputs // 32) * 32 * bits // 8
    assert np.abs(blocks.dequantized(num_inputs) - rows).max() < largest_error


def test_eight_bits_follow_a_block_that_lies_to_one_side():
    """A zero point halves the step of values that are all of one sign."""
    rows = np.abs(normal(48, 64))
    found, without = (
        np.abs(quantized.dequantized(64) - rows).max()
        for quantized in (quantize_blocks(rows, 8, 32), quantize_table(rows, 32))
    )
    assert found < 0.6 * without


def test_four_bits_keep_a_block_that_lies_away_from_zero():
    """As the blocks of GGUF's Q4_1: sixteen levels from a minimum on."""
    levels = RNG.integers(0, 16, (8, 64)).astype(np.float32)
    levels[:, ::32], levels[:, 1::32] = 0, 15
    rows = 0.1 * levels - 0.3  # zero is a level
    found = quantize_blocks(rows, 4, 32).dequantized(64)
    np.testing.assert_allclose(found, rows, atol=1e-3)


BLOCKS = {
    "positive": 5 + RNG.random((8, 64)),
    "negative": -5 - RNG.random((8, 64)),
    "narrow": 2 + 0.001 * RNG.random((8, 64)),
    "constant": np.full((8, 64), 0.3),
    "negative constant": np.full((8, 64), -0.3),
    "one outlier": np.where(np.arange(64) % 32 == 3, -10.0, 0.01) * np.ones((8, 1)),
    "zero": np.zeros((8, 64)),
    "both signs": RNG.standard_normal((8, 64)),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_is_farther_off_than_half_a_step_wherever_its_block_lies(bits, name):
    rows = BLOCKS[name].astype(np.float32)
    half = (max(rows.max(), 0) - min(rows.min(), 0)) / (2**bits - 1) / 2
    off = np.abs(quantize_blocks(rows, bits, 32).dequantized(64) - rows)
    if bits == 8:
        assert off.max() <= half * 1.001
    # 4 bits: the least squared error of a block may leave its far end a little more
    assert np.sqrt(np.square(off).mean(axis=1)).max() <= half * 1.001
    assert off.max() <= 3 * half


@pytest.mark.parametrize("name", BLOCKS)
def test_a_table_reaches_both_ends_of_a_block_without_zero_points(name):
    rows = BLOCKS[name].astype(np.float32)
    half = np.abs(rows).max() / 127 / 2
    assert np.abs(quantize_table(rows, 32).dequantized(64) - rows).max() <= half * 1.001


def test_the_far_end_of_a_table_s_block_does_not_cost_its_other_end():
    rows = np.tile(np.linspace(-1, 1, 32, dtype=np.float32), (4, 1))
    found = quantize_table(rows, 32).dequantized(32)
    np.testing.assert_allclose(found, rows, atol=1 / 127 / 2 * 1.001, rtol=0)


def test_blocks_of_equal_values_and_zeros_are_kept():
    rows = np.concatenate([np.zeros((4, 32)), np.full((4, 32), -0.5)], axis=1).astype(np.float32)
    for quantized in (
        *(quantize_blocks(rows, bits, 32) for bits in (8, 4)),
        quantize_table(rows, 32),
    ):
        found = quantized.dequantized(64)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[:, :32], 0.0)
    for bits in (8, 4):
        np.testing.assert_allclose(quantize_blocks(rows, bits, 32).dequantized(64), rows, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 96), (80, 96), (96, 48)])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_linear_layer_computes_with_its_dequantised_weight(weights, shape):
    x, matrix, bias = normal(2, 3, shape[0]), normal(*shape), normal(shape[1])
    model = model_of(
        f"""agraph (float[b, t, {shape[0]}] x) => (float[b, t, {shape[1]}] y) {{
            p = MatMul(x, W)
            y = Add(p, bias)
        }}""",
        W=matrix,
        bias=bias,
    )
    assert MatMulNBits(weights)(model).modified
    assert operators(model) == {"MatMulNBits": 1}
    narrows = shape[0] > shape[1]
    assert bits_of(model) == [8 if weights == "int8" or narrows else 4]
    weight = quantize_blocks(np.ascontiguousarray(matrix.T), bits_of(model)[0], 32)
    expected = x @ weight.dequantized(shape[0]).T + bias
    np.testing.assert_allclose(run(model, x=x)[0], expected, atol=0.3)  # x is rounded, too
    assert not MatMulNBits(weights)(model).modified


TIED = """agraph (int64[b, t] ids) => (float[b, t, 64] rows, float[b, 200] logits) {
    rows = Gather(table, ids)
    last = ReduceMean <keepdims = 0> (rows, axes)
    logits = Gemm <transB = 1> (last, table)
}"""


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_tied_table_is_stored_once_in_8_bits(weights):
    ids = np.array([[3, 199, 0]])
    model = model_of(TIED, table=normal(200, 64), axes=np.array([1]))
    before = run(model, ids=ids)
    MatMulNBits(weights)(model)
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert stored < 200 * 64 + 200 * 2 * 4 + 100
    for now, then in zip(run(model, ids=ids), before, strict=True):
        np.testing.assert_allclose(now, then, atol=0.2)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_head_with_a_bias_is_quantised_too(is_tied):
    ids, bias = np.array([[3, 199, 0]]), normal(200)
    text = TIED.replace(
        "(last, table)", "(last, head, bias)" if not is_tied else "(last, table, bias)"
    )
    weights = {"table": normal(200, 64), "axes": np.array([1]), "bias": bias}
    model = model_of(text, **weights | ({} if is_tied else {"head": normal(200, 64)}))
    before = run(model, ids=ids)
    MatMulNBits("int4")(model)
    assert bits_of(model) == [8]
    assert "Gemm" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, ids=ids)[1], before[1], atol=0.2)


def test_a_table_of_odd_rows_and_small_matrices_stay_as_they_are():
    model = model_of(
        """agraph (int64[b] ids, float[b, 8] x) => (float[b, 40] rows, float[b, 8] y) {
            rows = Gather(table, ids)
            y = MatMul(x, W)
        }""",
        table=normal(50, 40),
        W=normal(8, 8),
    )
    assert not MatMulNBits("int4")(model).modified
