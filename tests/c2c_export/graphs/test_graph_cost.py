"""What a graph computes, read from the shapes of its weights."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from c2c_export.building.build_report import GraphReport
from c2c_export.commands.build import graph_table
from c2c_export.graphs.graph_cost import graph_cost, linear_operations


def saved(path, nodes, weights):
    """A graph from x [tokens, 8] to logits, whose weights have these shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            helper.make_tensor(
                name, TensorProto.FLOAT, shape, bytes(4 * shape[0] * shape[1]), raw=True
            )
            for name, shape in weights.items()
        ],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def test_products_count_and_the_head_counts_once_a_call(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"]),
        helper.make_node("Transpose", ["down"], ["down_t"]),
        helper.make_node("MatMul", ["a", "down_t"], ["b"]),
        helper.make_node("MatMul", ["b", "a"], ["c"]),  # attention: nothing is a weight
        helper.make_node("Gemm", ["c", "head"], ["d"], transB=1),
        helper.make_node("Identity", ["d"], ["logits"]),
    ]
    weights = {"up": (8, 24), "down": (10, 24), "head": (100, 10)}
    cost = graph_cost(saved(tmp_path / "g.onnx", nodes, weights))
    assert (cost.operations, cost.head_operations) == (8 * 24 + 24 * 10, 1000)
    assert cost.num_nodes == 6


def test_products_of_few_bits_count_their_whole_matrix(tmp_path):
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "packed"], ["y"], domain="com.microsoft", K=8, N=32, bits=4, block_size=16
        ),
        helper.make_node("Relu", ["y"], ["logits"]),
    ]  # fmt: skip
    cost = graph_cost(saved(tmp_path / "g.onnx", nodes, {"packed": (32, 4)}))
    assert cost.operations + cost.head_operations == 8 * 32


def test_embeddings_and_gathers_cost_nothing(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "x"], ["logits"])]
    cost = graph_cost(saved(tmp_path / "g.onnx", nodes, {"table": (64, 8)}))
    assert (cost.operations, cost.head_operations) == (0, 0)
    model = nn.Sequential(nn.Embedding(64, 8), nn.Linear(8, 5), nn.LayerNorm(5))
    assert linear_operations([model]) == 40
    assert linear_operations([model, model]) == 80  # a layer that is used twice runs twice


def test_the_table_says_before_after_and_why(capsys):
    from rich.console import Console

    row = GraphReport(
        "receiver", 9_000_000, 8_000_000, 7_000_000, 4_000_000, 3_000_000, 42, "because"
    )
    Console(width=200).print(graph_table([row]))
    shown = capsys.readouterr().out
    for text in ("9.0 M -> 8.0 M", "7.0 M -> 4.0 M, 3.0 M a call", "42", "because"):
        assert text in shown
    assert row.num_removed == pytest.approx(1_000_000)
