"""Receiver and Sharer graphs of the TensorRT dialects on ONNX Runtime CPU, against eager fp32.

ONNX Runtime's CPU has no bf16 products, so of bf16 only the structure is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import TypeAdapter
from static_graphs import StaticCaches, StaticModel, cosine
from tiny_bundles import made_once
from tiny_models import LLAMA3_ROPE, tiny_model
from transformers import DynamicCache
from trt_networks import parsed_layers

from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, Limits
from c2c_runtime.bundle.precision import GraphPrecision

CAPACITY = 64
MODELS = {
    "llama": {"layers": 2, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
    "mistral": {"layers": 2},
    "qwen2": {"layers": 2},
    "qwen3": {"layers": 2, "head_dim": 24},
    "gemma3_text": {
        "layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "tie_word_embeddings": True,
    },
    "phi3": {
        "layers": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
    },
    "olmo2": {"layers": 2},
    "smollm3": {"layers": 2},
    "granite": {"layers": 2},
}
RUNNABLE = [
    *(("tensorrt", "fp32", name) for name in MODELS),
    *(("tensorrt", "fp16", name) for name in ("llama", "gemma3_text", "phi3")),
    *(("tensorrt-scatter", "fp32", name) for name in ("llama", "mistral", "gemma3_text", "phi3")),
    ("tensorrt-scatter", "fp16", "qwen3"),
]
BF16 = [("tensorrt", "bf16", "qwen3"), ("tensorrt-scatter", "bf16", "gemma3_text")]
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
CACHE_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
IDS = [int(i) for i in np.random.default_rng(5).integers(3, 256, CAPACITY)]
GRAPH = TypeAdapter(GraphSpec)


@dataclass
class Exported:
    """A tiny model in eager fp32, and its Receiver graph."""

    name: str
    options: GraphOptions
    directory: Path

    def __post_init__(self) -> None:
        source = resolve_model(str(self.directory / "model"))
        self.eager = load_model(source)
        self.dims = model_dims(read_config(source), source)
        self.spec = GRAPH.validate_json((self.directory / "spec.json").read_text())
        self.path = self.directory / "graphs" / "receiver.onnx"

    def run(self, batch_size: int = 1) -> StaticModel:
        caches = StaticCaches(self.dims, self.dims.num_layers, self.options, batch_size)
        return StaticModel(self.path, caches, self.dims.vocab_size)

    def check(self, model: StaticModel, ids, row: int = 0, positions=None, mask=None) -> None:
        """Logits and every cache of a row, against one eager pass over ``ids``; of masked ones
        nothing is cached."""
        cache = DynamicCache()
        with torch.no_grad():
            logits = self.eager(
                input_ids=torch.tensor([ids]),
                position_ids=None if positions is None else torch.tensor([positions]),
                attention_mask=None if mask is None else torch.tensor([mask]),
                cache=cache,
                use_cache=True,
            ).logits[0, -1]
        real = [i for i in range(len(ids)) if mask is None or mask[i]]
        assert model.caches.lengths[row] == len(real)
        self.close(model.logits[row], logits.numpy())
        for layer, cached in enumerate(cache.layers):
            for kind, wanted in (("key", cached.keys), ("value", cached.values)):
                self.close(model.caches.valid(layer, kind, row), wanted[:, :, real].numpy())

    def close(self, actual: np.ndarray, wanted: np.ndarray) -> None:
        if self.options.precision.activations == "fp32":
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4)
        else:
            assert actual.shape == wanted.shape
            assert cosine(actual, wanted) > 0.999


def exported(request, tmp_path_factory) -> Exported:
    dialect, precision, name = request.param
    options = GraphOptions(dialect, GraphPrecision(precision), Limits(CAPACITY, CAPACITY))

    def make(directory: Path) -> None:
        source = resolve_model(str(tiny_model(directory / "model", name, **MODELS[name])))
        dims = model_dims(read_config(source), source)
        spec = export_receiver(load_model(source, "c2c"), dims, directory / "graphs", options)
        (directory / "spec.json").write_bytes(GRAPH.dump_json(spec))

    directory = made_once(tmp_path_factory, f"static_{name}_{dialect}_{precision}", make)
    return Exported(name, options, directory)


@pytest.fixture(scope="module", params=RUNNABLE, ids="-".join)
def model(request, tmp_path_factory):
    return exported(request, tmp_path_factory)


@pytest.fixture(scope="module", params=[*RUNNABLE, *BF16], ids="-".join)
def graph(request, tmp_path_factory):
    return exported(request, tmp_path_factory)


@pytest.mark.parametrize("cuts", [(1,), (1, 2), (17,), (5, 40), (20, 21, 41), (63, 64)])
def test_tokens_appended_to_a_dirty_cache(model, cuts):
    """One token, several, a second section, past the window and to the last slot."""
    run = model.run()
    start = 0
    for stop in cuts:
        run.append([IDS[start:stop]])
        start = stop
    model.check(run, IDS[:start])


def test_decode_steps_past_the_window(model):
    run = model.run()
    run.append([IDS[:12]])
    for token_id in IDS[12:40]:
        run.append([[token_id]])
    model.check(run, IDS[:40])


def test_rows_of_different_lengths_take_several_tokens_at_once(model):
    run = model.run(batch_size=2)
    rows = [IDS[:30], IDS[30:60]]
    run.append(rows)
    run.caches.lengths[0] = run.caches.next_positions[0] = 9  # the rest is garbage from now on
    more = [IDS[40:43], IDS[10:13]]
    run.append(more)
    for row, length in enumerate((9, 30)):
        model.check(run, [*rows[row][:length], *more[row]], row)


def test_positions_ahead_of_the_cache_equal_masked_padding(model):
    """Padding after 10 and after 30 tokens; a window of 16 positions counts over it."""
    real = [*range(10), *range(15, 35), *range(41, 46)]
    mask = [int(i in real) for i in range(46)]
    run = model.run()
    for start, stop, gap in ((0, 10, 5), (15, 35, 6), (41, 46, 0)):
        run.append([IDS[start:stop]])
        run.caches.next_positions += gap
    padded = [IDS[i] if i in real else 0 for i in range(46)]
    model.check(run, padded, positions=list(range(46)), mask=mask)


def test_the_largest_logits_come_first(model):
    run = model.run()
    run.append([IDS[:9]])
    order = np.argsort(-run.logits[0], kind="stable")[:64]
    np.testing.assert_array_equal(run.top_logits[0], run.logits[0, order])
    np.testing.assert_array_equal(run.logits[0, run.top_ids[0]], run.top_logits[0])


def test_names_types_and_shapes_follow_the_contract(graph):
    dims, precision = graph.dims, graph.options.precision.activations
    cache = (
        CACHE_DTYPES[precision],
        ("batch", dims.num_kv_heads, CAPACITY, dims.head_dim),
    )
    keys = [(layer, kind) for layer in range(dims.num_layers) for kind in names.KINDS]
    inputs = {
        names.TOKEN_IDS: ("int64", ("batch", "tokens")),
        names.POSITIONS: ("int64", ("batch", "tokens")),
        names.PAST_LENGTH: ("int64", ("batch",)),
    } | {names.past(*key): cache for key in keys}
    if dims.sliding_window is not None:
        inputs[names.KEY_POSITIONS] = ("int64", ("batch", CAPACITY))
    outputs = {
        names.LOGITS: ("float32", ("batch", dims.vocab_size)),
        names.TOP_IDS: ("int64", ("batch", 64)),
        names.TOP_LOGITS: ("float32", ("batch", 64)),
    } | {names.present(*key): cache for key in keys}
    assert {t.name: (t.dtype, t.shape) for t in graph.spec.inputs} == inputs
    assert {t.name: (t.dtype, t.shape) for t in graph.spec.outputs} == outputs
    assert graph.spec.dialect == graph.options.dialect
    assert graph.spec.path == f"graphs/{graph.options.dialect}/receiver.onnx"


def test_the_graph_is_made_of_the_dialects_operators(graph):
    loaded = onnx.load(graph.path)
    onnx.checker.check_model(loaded)  # every operator is one of the opset that the graph names
    (opset,) = loaded.opset_import
    operators = Counter(node.op_type for node in loaded.graph.node)
    num_layers = graph.dims.num_layers
    writer = "TensorScatter" if graph.options.dialect == "tensorrt" else "ScatterND"
    assert operators[writer] == 2 * num_layers
    if graph.options.dialect == "tensorrt":
        assert opset.version >= 24
        assert operators["Attention"] == num_layers
        layer = graph.eager.model.layers[0]
        norms = [m for m in layer.modules() if type(m).__name__.endswith("RMSNorm")]
        assert operators["RMSNormalization"] == num_layers * len(norms) + 1
        no_rotary = num_layers // 2 if graph.name == "smollm3" else 0
        assert operators["RotaryEmbedding"] == 2 * (num_layers - no_rotary)
    else:
        assert opset.version <= 20
        assert operators["Softmax"] == num_layers
    readers = {names.past(layer, kind): [] for layer in range(num_layers) for kind in names.KINDS}
    for node in loaded.graph.node:
        for place, name in enumerate(node.input):
            if name in readers and node.op_type != "Shape":
                readers[name].append((node.op_type, place, node.output[0]))
    for past, found in readers.items():  # no cast, no copy
        assert found == [(writer, 0, past.replace("past", "present"))]


def test_every_weight_is_stored_once_in_the_precision_asked_for(graph):
    num_parameters = graph.eager.num_parameters()  # counts a tied table once
    assert num_parameters <= graph.spec.num_parameters < 1.02 * num_parameters + 400
    size = graph.path.with_suffix(".onnx.data").stat().st_size
    assert size < ITEM_BYTES[graph.options.precision.activations] * 1.1 * num_parameters + 65536


def test_norms_and_softmax_stay_in_float32(graph):
    """Rotary tables are computed from the float32 frequencies, then cast to the keys' type."""
    loaded = onnx.shape_inference.infer_shapes(onnx.load(graph.path), data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in loaded.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in loaded.graph.initializer}
    checked = Counter()
    for node in loaded.graph.node:
        if node.op_type in ("RMSNormalization", "ReduceMean", "Softmax", "Cos", "Sin"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT, node.op_type
            checked[node.op_type] += 1
    assert checked["Cos"] == checked["Sin"] > 0
    assert checked["RMSNormalization"] + checked["ReduceMean"] > graph.dims.num_layers


def test_tensorrt_reads_the_graph(graph):
    layers = parsed_layers(graph.path)
    num_layers = graph.dims.num_layers
    if graph.options.dialect == "tensorrt":
        assert layers["KV_CACHE_UPDATE"] == 2 * num_layers
        assert layers["ATTENTION_INPUT"] == layers["ATTENTION_OUTPUT"] == num_layers
        assert layers["ROTARY_EMBEDDING"] > 0
    else:
        assert layers["SCATTER"] == 2 * num_layers
        assert not {"KV_CACHE_UPDATE", "ATTENTION_INPUT", "ROTARY_EMBEDDING"} & set(layers)


@pytest.mark.parametrize(
    ("dialect", "precision"), [("tensorrt", "fp32"), ("tensorrt-scatter", "fp16")]
)
def test_a_sharer_holds_nothing_past_its_cut(tmp_path, dialect, precision):
    source = resolve_model(str(tiny_model(tmp_path / "m", "gemma3_text", **MODELS["gemma3_text"])))
    dims = model_dims(read_config(source), source)
    options = GraphOptions(dialect, GraphPrecision(precision), Limits(CAPACITY, CAPACITY))
    spec = export_sharer(load_model(source, "c2c"), dims, 2, "sharer1", tmp_path / "g", options)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "g/sharer1.onnx").graph.node)
    assert operators["TensorScatter" if dialect == "tensorrt" else "ScatterND"] == 4
    assert operators["Attention" if dialect == "tensorrt" else "Softmax"] == 1
    assert len(spec.outputs) == 4
    run = StaticModel(tmp_path / "g" / "sharer1.onnx", StaticCaches(dims, 2, options))
    run.append([IDS[:20]])
    run.append([IDS[20:40]])
    cache = DynamicCache()
    with torch.no_grad():
        load_model(source).model(input_ids=torch.tensor([IDS[:40]]), cache=cache, use_cache=True)
    for layer in range(2):
        for kind in names.KINDS:
            wanted = getattr(cache.layers[layer], f"{kind}s").numpy()
            found = run.caches.valid(layer, kind)
            assert cosine(found, wanted) > (0.999 if precision == "fp16" else 1 - 1e-9)


@pytest.mark.parametrize("dialect", ["tensorrt", "tensorrt-scatter"])
def test_large_biases_stay_finite_in_fp16(tmp_path, dialect):
    """QwenLM/Qwen3#910: q and k biases of the size that real Qwen2 models have."""
    source = resolve_model(str(tiny_model(tmp_path / "m", "qwen2", layers=1)))
    dims = model_dims(read_config(source), source)
    eager, traced = load_model(source), load_model(source, "c2c")
    for loaded in (eager, traced):
        for side in ("q_proj", "k_proj"):
            getattr(loaded.model.layers[0].self_attn, side).bias.mul_(60.0)
    options = GraphOptions(dialect, GraphPrecision("fp16"), Limits(CAPACITY, CAPACITY))
    export_receiver(traced, dims, tmp_path / "g", options)
    caches = StaticCaches(dims, 1, options, garbage=100.0)
    run = StaticModel(tmp_path / "g/receiver.onnx", caches, dims.vocab_size)
    run.append([IDS[:30]])
    with torch.no_grad():
        expected = eager(input_ids=torch.tensor([IDS[:30]])).logits[0, -1].numpy()
    assert np.isfinite(run.logits).all()
    assert cosine(run.logits[0], expected) > 0.999
