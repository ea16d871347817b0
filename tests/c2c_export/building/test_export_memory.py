"""Passes and the memory of an export: equal weights once, and nothing kept of a graph that is done."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx_ir as ir
import pytest
from tiny_bundles import build
from tiny_models import tiny_model, tiny_pair

from c2c_export.fusers.fuser import FuserLayer
from c2c_export.graphs.export_graph import write_graph
from c2c_export.graphs.export_model import export_sharer
from c2c_export.passes.share_weights import ShareWeights
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model

WEIGHT = np.arange(6, dtype=np.float32)
LARGE = np.arange(300 * 200, dtype=np.float32).reshape(300, 200)
ONE_OTHER = LARGE.copy()
ONE_OTHER[-1, -1] += 1
TRANSPOSED = np.arange(6, dtype=np.float32).reshape(3, 2).T  # does not lie in order
OUT_OF_ORDER = np.ascontiguousarray(TRANSPOSED)


def graph_of(*weights: np.ndarray) -> ir.Model:
    """A graph in which every weight is read by a node of its own."""
    values = [
        ir.Value(
            name=f"w{index}",
            shape=ir.Shape(weight.shape),
            type=ir.TensorType(ir.DataType.from_numpy(weight.dtype)),
            const_value=ir.Tensor(weight, name=f"w{index}"),
        )
        for index, weight in enumerate(weights)
    ]
    nodes = [ir.node("Abs", inputs=[value]) for value in values]
    graph = ir.Graph(
        [],
        [node.outputs[0] for node in nodes],
        nodes=nodes,
        initializers=values,
        opset_imports={"": 24},
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("first", "second", "num_left"),
    [
        (WEIGHT, WEIGHT.copy(), 1),
        (TRANSPOSED, OUT_OF_ORDER, 1),
        (np.float32(2.0).reshape(()), np.float32(2.0).reshape(()), 1),
        (LARGE, LARGE.copy(), 1),
        (LARGE, ONE_OTHER, 2),
        (WEIGHT, WEIGHT + 1, 2),
        (WEIGHT, WEIGHT.reshape(2, 3), 2),
        (WEIGHT, WEIGHT.view(np.int32), 2),
    ],
    ids=[
        "equal",
        "order in memory",
        "scalars",
        "large",
        "one number of many",
        "value",
        "shape",
        "type",
    ],
)
def test_weights_of_equal_type_shape_and_bytes_become_one(first, second, num_left):
    model = graph_of(first, second)
    modified = ShareWeights()(model).modified
    assert modified == (num_left == 1)
    assert len(model.graph.initializers) == num_left
    read = {node.inputs[0].name for node in model.graph}
    assert read == set(model.graph.initializers)


def test_a_model_is_let_go_once_its_graph_is_written(tmp_path):
    source = resolve_model(str(tiny_model(tmp_path / "m", "qwen2")))
    model = load_model(source, "c2c")
    dims = model_dims(read_config(source), source)
    weights = [weakref.ref(weight) for weight in model.parameters()]
    export_sharer(model, dims, 2, "sharer1", tmp_path / "graphs")
    del model
    gc.collect()
    assert [ref for ref in weights if ref() is not None] == []


def test_passes_do_not_hold_a_copy_of_the_weights():
    """Each weight is read on its own: never two at once."""
    reading: list[object] = []
    most = 0

    class Watched(np.ndarray):
        """An array that knows how many of its kind are alive."""

    class Weight(ir.Tensor):
        def numpy(self):
            nonlocal most
            array = super().numpy().copy().view(Watched)
            reading.append(weakref.ref(array))
            most = max(most, sum(ref() is not None for ref in reading))
            return array

        def tobytes(self):
            raise AssertionError("a copy of a whole weight was asked for")

    model = graph_of(*(np.full(4, index, np.float32) for index in range(5)))
    for value in model.graph.initializers.values():
        value.const_value = Weight(value.const_value.numpy(), name=value.name)
    ShareWeights()(model)
    assert len(reading) == 5
    assert most == 1


def num_fuser_layers() -> int:
    gc.collect()
    return sum(FuserLayer in type(item).__mro__ for item in gc.get_objects())


def test_the_fuser_is_not_in_memory_while_models_are_traced(tmp_path, monkeypatch):
    alive: dict[str, int] = {}
    before = num_fuser_layers()

    def counting(model, role, *rest):
        alive[role] = num_fuser_layers() - before
        return write_graph(model, role, *rest)

    for name in ("export_model", "export_fuser"):
        monkeypatch.setattr(f"c2c_export.graphs.{name}.write_graph", counting)
    build(tiny_pair(tmp_path / "pair"), tmp_path / "bundle", verify=False)
    assert alive == {"sharer1": 0, "fuser": 3, "receiver": 0}
