"""The passes that fuse for ONNX Runtime, each alone: what becomes one, what is left, the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass
from text_graphs import model_of, operators, run

from c2c_export.passes.collapse_reshapes import CollapseReshapes
from c2c_export.passes.pack_attention import PackAttention
from c2c_export.passes.pack_products import PackProducts
from c2c_export.passes.skip_norms import SkipNorms

RNG = np.random.default_rng(0)
BATCH, TOKENS, HIDDEN, HEAD_DIM, CAPACITY = 1, 3, 4, 16, 8


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TWO_PRODUCTS = """agraph (float[b, t, 4] x) => (float[b, t, 6] gate, float[b, t, 2] up) {
    gate = MatMul(x, A)
    plain = MatMul(x, B)
    up = Add(bias, plain)
}"""


def test_products_of_one_input_become_one_with_their_biases():
    x, weights = normal(2, 3, 4), {"A": normal(4, 6), "B": normal(4, 2), "bias": normal(2)}
    model = model_of(TWO_PRODUCTS, **weights)
    before = run(model, x=x)
    assert PackProducts()(model).modified
    assert operators(model) == {"MatMul": 1, "Add": 1, "Split": 1}
    assert sum(w.const_value.size for w in model.graph.initializers.values()) == 32 + 8 + 2
    for now, then in zip(run(model, x=x), before, strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)
    assert not PackProducts()(model).modified


@pytest.mark.parametrize(
    "second",
    [
        pytest.param("MatMul(y, B)", id="another input"),
        pytest.param("MatMul(x, A)", id="a weight with two readers"),
        pytest.param("MatMul(x, y2)", id="no weight"),
    ],
)
def test_other_products_are_left_alone(second):
    text = f"""agraph (float[b, 4] x, float[b, 4] y, float[4, 6] y2) => (float[b, 6] one, float[b, 6] two) {{
        one = MatMul(x, A)
        two = {second}
    }}"""
    weights = {"A": normal(4, 6)} | ({"B": normal(4, 6)} if "B" in second else {})
    model = model_of(text, **weights)
    assert not PackProducts()(model).modified
    assert operators(model) == {"MatMul": 2}


def test_reshapes_that_lead_back_are_dropped_and_others_stay():
    model = model_of(
        """agraph (float[b, t, 8] x) => (float[b, t, 8] same, float[b, t, 4, 2] other) {
            heads = Reshape(x, split)
            same_shape = Reshape(heads, joined)
            same = Neg(same_shape)
            other = Reshape(same_shape, wider)
        }""",
        split=np.array([0, 0, 2, 4]),
        joined=np.array([0, 0, 8]),
        wider=np.array([0, 0, 4, 2]),
    )
    values = {v.name: v for node in model.graph for v in node.outputs}
    values["heads"].shape = ir.Shape(["b", "t", 2, 4])
    values["same_shape"].shape = ir.Shape(["b", "t", 8])
    x = normal(2, 3, 8)
    before = run(model, x=x)
    assert CollapseReshapes()(model).modified
    RemoveUnusedNodesPass()(model)
    assert operators(model) == {"Neg": 1, "Reshape": 1}
    for now, then in zip(run(model, x=x), before, strict=True):
        np.testing.assert_array_equal(now, then)
    values["same"].shape = None
    assert not CollapseReshapes()(model).modified


ATTENTION = """agraph (float[b, t, 64] x, float[b, 1, s, 16] past_key, float[b, 1, s, 16] past_value)
    => (float[b, t, 32] y, float[b, 1, s, 16] key, float[b, 1, s, 16] value) {{
    q, k, v = Split <axis = -1> (x, sizes)
    {between}
    y, key, value = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1>
        (q, {k}, v, past_key, past_value, last, total)
}}"""


@pytest.mark.parametrize("between", [None, "k2 = Neg(k)"])
def test_attention_reads_what_one_product_gives_unless_something_lies_between(between):
    model = model_of(
        ATTENTION.format(between=between or "", k="k2" if between else "k"),
        sizes=np.array([32, 16, 16]),
        last=np.array([2], np.int32),
        total=np.array(3, np.int32),
    )
    cache = np.zeros((BATCH, 1, CAPACITY, HEAD_DIM), np.float32)
    feeds = {"x": normal(BATCH, TOKENS, 64), "past_key": cache, "past_value": cache}
    before = run(model, **feeds)
    assert PackAttention()(model).modified == (between is None)
    assert ("Split" in operators(model)) == (between is not None)
    for now, then in zip(run(model, **feeds), before, strict=True):
        np.testing.assert_array_equal(now[..., :TOKENS, :], then[..., :TOKENS, :])


def test_a_residual_sum_and_its_norm_become_one_operator():
    model = model_of(
        """agraph (float[b, t, 4] x, float[b, t, 4] y) => (float[b, t, 4] norm, float[b, t, 4] sum2) {
            first = RMSNormalization <axis = -1, epsilon = 1e-6> (x, scale)
            sum = Add(first, y)
            norm = RMSNormalization <axis = -1, epsilon = 1e-6> (sum, scale)
            sum2 = Neg(sum)
        }""",
        scale=normal(HIDDEN),
    )
    for node in model.graph:
        for value in node.outputs:
            value.shape = ir.Shape(["b", "t", 4])
    feeds = {"x": normal(2, 3, 4), "y": normal(2, 3, 4)}
    before = run(model, **feeds)
    assert SkipNorms()(model).modified
    assert operators(model) == {
        "SimplifiedLayerNormalization": 1,
        "SkipSimplifiedLayerNormalization": 1,
        "Neg": 1,
    }
    for now, then in zip(run(model, **feeds), before, strict=True):
        np.testing.assert_allclose(now, then, atol=1e-6)
    assert not SkipNorms()(model).modified
