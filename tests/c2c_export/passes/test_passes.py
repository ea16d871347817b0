"""Each pass alone: what it changes, what it leaves, and that the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from c2c_export.passes.clear_shapes import ClearIntermediateShapes
from c2c_export.passes.constant_reshapes import ConstantReshapes
from c2c_export.passes.transpose_weights import TransposeWeights, transposed

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def linear_model(*, weight_is_shared: bool = False) -> ir.Model:
    """y = x @ transpose(weight); a shared weight also gives rows = gather(weight, 1)."""
    x = ir.Value(name="x", shape=ir.Shape(["n", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="weight", shape=ir.Shape([4, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    weight.const_value = ir.tensor(WEIGHT, name="weight")
    transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, transpose.outputs[0]])
    nodes, outputs = [transpose, product], [product.outputs[0]]
    initializers = [weight]
    if weight_is_shared:
        index = ir.Value(name="index", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
        index.const_value = ir.tensor(np.array([1]), name="index")
        gather = ir.node("Gather", [weight, index])
        nodes.append(gather)
        outputs.append(gather.outputs[0])
        initializers.append(index)
    for number, output in enumerate(outputs):
        output.name = f"y{number}"
        output.type = ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape(["n", 4]) if number == 0 else ir.Shape([1, 3])
    graph = ir.Graph(
        [x], outputs, nodes=nodes, initializers=initializers, opset_imports={"": 23}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> list[np.ndarray]:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": X})


def test_a_private_weight_is_stored_transposed():
    model = linear_model()
    before = run(model)
    assert TransposeWeights()(model).modified
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert [w.const_value.numpy().shape for w in model.graph.initializers.values()] == [(3, 4)]
    np.testing.assert_array_equal(run(model), before)
    assert not TransposeWeights()(model).modified


@pytest.mark.parametrize("shape", [(1, 5), (64, 3), (65, 7), (200, 128)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_transpose_lies_in_order(shape, dtype):
    matrix = np.arange(shape[0] * shape[1]).reshape(shape).astype(dtype)
    result = transposed(matrix)
    assert result.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(result, matrix.T)


def test_a_view_of_a_weight_is_laid_in_order():
    view = np.arange(6, dtype=np.float32).reshape(2, 3).T
    weight = ir.Value(name="w", const_value=ir.Tensor(view, name="w"))
    weight.shape, weight.type = ir.Shape(view.shape), ir.TensorType(ir.DataType.FLOAT)
    node = ir.node("Abs", [weight])
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 24})
    assert TransposeWeights()(ir.Model(graph, ir_version=10)).modified
    stored = graph.initializers["w"].const_value.numpy()
    assert stored.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(stored, view)


def test_a_shared_weight_stays_stored_once_as_it_is():
    model = linear_model(weight_is_shared=True)
    before = run(model)
    assert not TransposeWeights()(model).modified
    assert set(model.graph.initializers) == {"weight", "index"}
    for now, then in zip(run(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("shared", [False, True])
def test_only_shapes_inside_a_graph_are_dropped(shared):
    model = linear_model(weight_is_shared=shared)
    inner = model.graph.node(0).outputs[0]
    inner.shape = ir.Shape([99, 99])  # wrong on purpose: a trace states the example's
    assert ClearIntermediateShapes()(model).modified
    assert inner.shape is None
    assert all(value.shape is not None for value in (*model.graph.inputs, *model.graph.outputs))
    assert not ClearIntermediateShapes()(model).modified
    np.testing.assert_allclose(run(model)[0], X @ WEIGHT.T)


def reshape_model(source: list, result: list) -> ir.Model:
    """y = reshape(x, shape(like)), as traces compute their targets."""
    x, like, y = (
        ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))
        for name, dims in (("x", source), ("like", result), ("y", result))
    )
    shape = ir.node("Shape", [like])
    reshape = ir.node("Reshape", [x, shape.outputs[0]], {"allowzero": 1}, outputs=[y])
    graph = ir.Graph([x, like], [y], nodes=[shape, reshape], opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("source", "result", "sizes"),
    [
        (["batch", "tokens", 2, 3], ["batch", "tokens", 6], (2, 5)),
        (["batch", "tokens", 6], ["batch", "tokens", 2, 3], (1, 1)),
        (["batch", 2, 3, "tokens"], ["batch", 6, "tokens"], (3, 4)),  # one that has moved
        (["tokens"], [1, "tokens", 1], (1, 7)),
    ],
)
def test_a_target_that_the_trace_knows_becomes_a_constant(source, result, sizes):
    model = reshape_model(source, result)
    assert ConstantReshapes()(model).modified
    assert not ConstantReshapes()(model).modified
    by_name = dict(zip(("batch", "tokens"), sizes, strict=True))
    x, like = (np.zeros([by_name.get(dim, dim) for dim in dims]) for dims in (source, result))
    x = np.arange(x.size).reshape(x.shape)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    inputs = {"x": x.astype(np.float32), "like": like.astype(np.float32)}
    (found,) = session.run(None, inputs)
    np.testing.assert_array_equal(found, x.reshape(like.shape))


@pytest.mark.parametrize(
    ("source", "result"),
    [(["n", "m"], ["m", "n"]), (["n", 6], ["a", "b"]), (["n", None], [None, None, 2])],
)
def test_a_target_that_could_be_several_stays_computed(source, result):
    model = reshape_model(source, result)
    assert not ConstantReshapes()(model).modified
    assert [node.op_type for node in model.graph] == ["Shape", "Reshape"]
