import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tiny_models import tiny_model

from c2c_export.graphs.export_model import export_receiver
from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.lowering.tracing import ATTENTION
from c2c_export.passes.quantize_weights import QuantizeWeights, quantize
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.bundle.manifest import Limits
from c2c_runtime.bundle.precision import GraphPrecision

RNG = np.random.default_rng(3)
ERROR = {"int8": 0.012, "fp8": 0.04, "int4": 0.12}  # relative, of normal weights
BITS = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN, "int4": ir.DataType.INT4}


def product(weight: np.ndarray, *, is_tied: bool = False) -> ir.Model:
    """y = x W; or, tied, y = table[ids] table^T."""
    dtype = ir.DataType.from_numpy(weight.dtype)
    table = ir.Value(
        name="w",
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(dtype),
        const_value=ir.tensor(weight, name="w"),
    )
    if is_tied:
        given = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
        gather = ir.node("Gather", [table, given])
        transpose = ir.node("Transpose", [table], {"perm": [1, 0]})
        nodes = [gather, transpose, ir.node("MatMul", [gather.outputs[0], transpose.outputs[0]])]
    else:
        given = ir.Value(
            name="x", shape=ir.Shape(["n", weight.shape[0]]), type=ir.TensorType(dtype)
        )
        nodes = [ir.node("MatMul", [given, table])]
    y = nodes[-1].outputs[0]
    y.name, y.type = "y", ir.TensorType(dtype)
    y.shape = ir.Shape(["n", weight.shape[0] if is_tied else weight.shape[1]])
    graph = ir.Graph(
        [given], [y], nodes=nodes, initializers=[table], opset_imports={"": 24}, name="g"
    )
    return ir.Model(graph, ir_version=11)


def run(model: ir.Model, **inputs):
    """As written: ONNX Runtime's own rewrites would quantise the other side of the product, too."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("weights", ["int8", "fp8", "int4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(64, 48), (96, 33), (1, 2000)])
def test_the_graph_computes_with_the_dequantised_weights(weights, dtype, shape):
    weight = RNG.normal(size=shape).astype(dtype)
    x = RNG.normal(size=(5, shape[0])).astype(dtype)
    model = product(weight)
    assert QuantizeWeights(weights)(model).modified
    expected = x.astype(np.float32) @ quantize(weight, weights).dequantized()
    tolerance = 1e-4 if dtype == np.float32 else 0.1
    np.testing.assert_allclose(run(model, x=x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("weights", ["int8", "fp8", "int4"])
def test_the_loss_is_what_so_many_bits_allow(weights):
    weight = RNG.normal(size=(256, 128)).astype(np.float32)
    error = np.linalg.norm(quantize(weight, weights).dequantized() - weight) / np.linalg.norm(
        weight
    )
    assert ERROR[weights] / 4 < error < ERROR[weights]


def test_one_large_weight_costs_its_block_only():
    weight = RNG.normal(size=(64, 8)).astype(np.float32)
    weight[0, 0] = 1000.0
    restored = quantize(weight, "int4").dequantized()
    np.testing.assert_allclose(restored[32:], weight[32:], atol=0.5)
    np.testing.assert_allclose(restored[:32, 1:], weight[:32, 1:], atol=0.5)


def test_zero_and_tiny_columns_stay_finite():
    weight = np.zeros((64, 32), np.float16)
    weight[:, 1] = 6e-8  # the least float16
    for weights in ("int8", "fp8", "int4"):
        restored = quantize(weight, weights).dequantized()
        assert np.isfinite(restored).all()
        assert not restored[:, 0].any()


def test_inputs_that_fill_no_block_are_stored_in_eight_bits():
    model = product(RNG.normal(size=(50, 64)).astype(np.float32))
    QuantizeWeights("int4")(model)
    assert model.graph.initializers["w.int4"].dtype == ir.DataType.INT8


def test_small_weights_and_vectors_stay():
    model = product(RNG.normal(size=(16, 16)).astype(np.float32))
    assert not QuantizeWeights("int8")(model).modified


@pytest.mark.parametrize("weights", ["int8", "fp8", "int4"])
def test_a_tied_table_serves_the_gather_and_its_copy_the_product(weights):
    table = RNG.normal(size=(100, 64)).astype(np.float32)
    model = product(table, is_tied=True)
    QuantizeWeights(weights)(model)
    stored = {value.name: value.dtype for value in model.graph.initializers.values()}
    assert stored["w"] == ir.DataType.FLOAT
    assert stored[f"w.{weights}"] == BITS[weights]
    assert "Transpose" not in [node.op_type for node in model.graph]
    ids = np.array([3, 77, 0])
    expected = table[ids] @ quantize(table.T, weights).dequantized()
    np.testing.assert_allclose(run(model, ids=ids), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_product_of_a_model_is_quantised_once(tmp_path, weights):
    source = resolve_model(str(tiny_model(tmp_path / "model", "qwen3", layers=2, hidden=64)))
    dims = model_dims(read_config(source), source)
    specs = {}
    for kind in (None, weights):
        model = load_model(source, ATTENTION)
        options = GraphOptions("tensorrt", GraphPrecision("fp16", kind), Limits(64, 64))
        specs[kind] = export_receiver(model, dims, tmp_path / str(kind), options)
    graph = ir.load(tmp_path / weights / "receiver.onnx").graph
    products = [node for node in graph if node.op_type == "MatMul"]
    assert len(products) == 2 * 7 + 1
    assert all(node.inputs[1].producer().op_type == "DequantizeLinear" for node in products)
    assert specs[weights].num_parameters == specs[None].num_parameters
    stored = [node.inputs[1].producer().inputs[0].dtype for node in products]
    assert stored == [BITS[weights]] * 14 + [BITS["int8"]]  # the last gives the logits
    num_full = sum(
        value.const_value.size
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT16 and not value.name.endswith(".scale")
    )
    assert num_full < specs[None].num_parameters / 2  # the embedding table, no weight of a product


def test_the_types_are_those_that_onnx_stores():
    weight = RNG.normal(size=(64, 64)).astype(np.float16)
    assert quantize(weight, "int4").values.dtype == ml_dtypes.int4
    assert quantize(weight, "fp8").values.dtype == ml_dtypes.float8_e4m3fn
    assert quantize(weight, "int8").scales.dtype == np.float16


@pytest.mark.parametrize("offset", [5.0, -5.0])
@pytest.mark.parametrize(("weights", "largest"), [("int8", 127), ("int4", 7)])
def test_weights_of_one_sign_are_kept_to_half_a_step(weights, largest, offset):
    """Symmetric levels reach the far end of either side."""
    matrix = (offset + RNG.random((64, 48))).astype(np.float32)
    matrix[:, :8] = offset
    off = np.abs(quantize(matrix, weights).dequantized() - matrix)
    half = np.abs(matrix).max() / largest / 2
    assert np.sqrt(np.square(off).mean(axis=0)).max() <= half * 1.01
    assert off.max() <= 3 * half
