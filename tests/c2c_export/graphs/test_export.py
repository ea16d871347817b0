"""Exported graphs against eager transformers, at the shapes that hurt, on tiny models of each
architecture: windows passed, rope scaling past its original context, dirty buffers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from pydantic import TypeAdapter
from tiny_bundles import made_once
from tiny_models import LLAMA3_ROPE, tiny_model
from transformers import DynamicCache

from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.lowering.graph_options import ORT
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.backends.host_memory import HostMemory
from c2c_runtime.backends.ort_backend import OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.cache_spec import CacheSpec
from c2c_runtime.bundle.manifest import GraphSpec, Limits
from c2c_runtime.chain.bound_model import BoundModel
from c2c_runtime.chain.kv_cache import allocate_cache, allocate_rows
from c2c_runtime.chain.section_passes import Reading

CAPACITY = 64
_SINK = 11  # input of GroupQueryAttention
MODELS = {
    "llama": {"rope_parameters": LLAMA3_ROPE, "layers": 2, "tie_word_embeddings": True},
    "mistral": {"layers": 2},
    "qwen2": {"layers": 2},
    "qwen3": {"layers": 2, "head_dim": 24},
    "gemma3_text": {"layers": 7},
    "odd_heads": {"layers": 2, "head_dim": 12, "sliding_window": 16},
}
ARCHITECTURES = {"odd_heads": "mistral"}
IDS = [int(i) for i in np.random.default_rng(5).integers(3, 256, CAPACITY)]


class Exported:
    """A tiny model in eager PyTorch, and its Receiver graph on ONNX Runtime."""

    def __init__(self, name: str, directory: Path) -> None:
        source = resolve_model(str(directory / "model"))
        self.name = name
        self.eager = load_model(source)
        self.dims = model_dims(read_config(source), source)
        self.caches = CacheSpec(
            "Receiver", self.dims, self.dims.num_layers, Limits(CAPACITY, CAPACITY)
        )
        self.spec = self.spec_of(directory)
        self.data = directory / "graphs" / "receiver.onnx.data"
        self.graph = OrtGraph(directory / "graphs" / "receiver.onnx", 1)

    @staticmethod
    def spec_of(directory: Path):
        return TypeAdapter(GraphSpec).validate_json((directory / "spec.json").read_text())

    def bound(self, fill: float = np.nan) -> BoundModel:
        cache = allocate_cache(self.caches, HostMemory())
        for buffer in cache.buffers.values():
            buffer.fill(fill)
        return BoundModel(self.graph, cache, self.dims.vocab_size)

    def expected(self, ids, positions=None, mask=None):
        """Eager logits of the last token, and caches, of one pass."""
        cache = DynamicCache()
        with torch.no_grad():
            logits = self.eager(
                input_ids=torch.tensor([ids]),
                position_ids=None if positions is None else torch.tensor([positions]),
                attention_mask=None if mask is None else torch.tensor([mask]),
                cache=cache,
                use_cache=True,
            ).logits[0, -1]
        return logits.numpy(), cache

    def check(self, model: BoundModel, ids) -> None:
        logits, cache = self.expected(ids)
        np.testing.assert_allclose(model.logits, logits, rtol=0, atol=1e-4)
        assert model.cache.length == len(ids)
        for layer, cached in enumerate(cache.layers):
            for kind, wanted in (("key", cached.keys), ("value", cached.values)):
                found = model.cache.valid(layer, kind)
                np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    name = request.param

    def make(directory: Path) -> None:
        path = tiny_model(directory / "model", ARCHITECTURES.get(name, name), **MODELS[name])
        source = resolve_model(str(path))
        dims = model_dims(read_config(source), source)
        spec = export_receiver(load_model(source, "c2c"), dims, directory / "graphs")
        (directory / "spec.json").write_bytes(TypeAdapter(GraphSpec).dump_json(spec))

    return Exported(name, made_once(tmp_path_factory, f"export_{name}", make))


@pytest.mark.parametrize("num_tokens", [1, 2, 17, 40, CAPACITY])
def test_a_prefill_into_an_empty_dirty_cache(model, num_tokens):
    bound = model.bound()
    bound.prefill(IDS[:num_tokens])
    model.check(bound, IDS[:num_tokens])


@pytest.mark.parametrize("cuts", [(1, 2), (5, 40), (20, 21, 41), (63, 64)])
def test_tokens_appended_to_a_cache_that_is_not_empty(model, cuts):
    """Several tokens, one token, past the window and past the original context."""
    bound = model.bound()
    start = 0
    for stop in cuts:
        bound.prefill(IDS[start:stop])
        start = stop
    model.check(bound, IDS[: cuts[-1]])


def test_decode_steps_to_the_last_slot(model):
    bound = model.bound()
    bound.prefill(IDS[:50])
    for token_id in IDS[50:]:
        bound.step(token_id)
    model.check(bound, IDS)


def test_a_used_cache_is_as_good_as_a_new_one(model):
    bound = model.bound()
    bound.prefill(IDS)
    bound.cache.reset()
    bound.prefill(IDS[30:50])
    bound.step(IDS[50])
    model.check(bound, IDS[30:51])


def test_positions_ahead_of_the_cache_equal_masked_padding(model):
    """Padding after 10 and after 30 tokens; a window of 16 positions counts over it."""
    real = [*range(10), *range(15, 35), *range(41, 46)]
    padded = [IDS[i] if i in real else 0 for i in range(46)]
    logits, cache = model.expected(padded, list(range(46)), [int(i in real) for i in range(46)])
    bound = model.bound()
    for start, stop, gap in ((0, 10, 5), (15, 35, 6), (41, 46, 0)):
        bound.prefill(IDS[start:stop])
        bound.cache.skip(gap)
    np.testing.assert_allclose(bound.logits, logits, rtol=0, atol=1e-4)
    for layer, cached in enumerate(cache.layers):
        wanted = cached.keys[:, :, real].numpy()
        np.testing.assert_allclose(bound.cache.valid(layer, "key"), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cuts", [(0, 32), (0, 7, 32), (0, 1, 20, 32)])
def test_positions_with_gaps_within_one_pass_equal_masked_padding(model, cuts):
    """The first pass over an empty cache, too, where ONNX Runtime by itself counts on from the first."""
    real = [*range(3, 10), *range(15, 35), *range(41, 46)]
    padded = [IDS[i] if i in real else 0 for i in range(46)]
    logits, cache = model.expected(padded, list(range(46)), [int(i in real) for i in range(46)])
    bound = model.bound()
    for start, stop in pairwise(cuts):
        positions = np.array(real[start:stop])
        bound.start_prefill(Reading(tuple(IDS[i] for i in positions), positions))
        bound.wait()
    np.testing.assert_allclose(bound.logits, logits, rtol=0, atol=1e-4)
    for layer, cached in enumerate(cache.layers):
        wanted = cached.keys[:, :, real].numpy()
        np.testing.assert_allclose(bound.cache.valid(layer, "key"), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_batch_of_any_size_after_tracing_with_two(model, batch_size):
    """Rows of one length, run at once by the graph itself."""
    rows, _ = allocate_rows(model.caches, HostMemory(), batch_size)
    ids = np.array([IDS[row : row + 20] for row in range(batch_size)], np.int64)
    rows.key_positions[:, :20] = np.arange(20)
    logits = np.zeros((batch_size, model.dims.vocab_size), np.float32)
    inputs = {names.past(*key): buffer for key, buffer in rows.buffers.items()}
    inputs |= {
        names.TOKEN_IDS: ids,
        names.POSITIONS: np.tile(np.arange(20), (batch_size, 1)),
        names.PAST_LENGTH: np.zeros(batch_size, np.int64),
        names.KEY_POSITIONS: rows.key_positions,
    }
    outputs = {names.present(*key): buffer for key, buffer in rows.buffers.items()}
    model.graph.bind(inputs, outputs | {names.LOGITS: logits}).start()
    for row in range(batch_size):
        expected, _ = model.expected(ids[row].tolist())
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lengths", [(3, 30), (41, 0, 17)])
def test_rows_of_different_lengths_equal_their_single_runs(model, lengths):
    """A decode step of rows that are not alike; after the shorter ones comes garbage. (Several
    tokens a row over caches that are not empty are refused by ONNX Runtime: rows prefill alone.)"""
    batch_size = len(lengths)
    rows, caches = allocate_rows(model.caches, HostMemory(), batch_size)
    for buffer in rows.buffers.values():
        buffer.fill(np.nan)
    for row, length in enumerate(lengths):
        single = BoundModel(model.graph, caches[row], model.dims.vocab_size)
        if length:
            single.prefill(IDS[row : row + length])
    logits = np.zeros((batch_size, model.dims.vocab_size), np.float32)
    inputs = {names.past(*key): buffer for key, buffer in rows.buffers.items()}
    inputs |= {
        names.TOKEN_IDS: np.array([[IDS[row + n]] for row, n in enumerate(lengths)], np.int64),
        names.POSITIONS: np.concatenate([cache.claim(1) for cache in caches]),
        names.PAST_LENGTH: np.array(lengths, np.int64),
        names.KEY_POSITIONS: rows.key_positions,
    }
    outputs = {names.present(*key): buffer for key, buffer in rows.buffers.items()}
    model.graph.bind(inputs, outputs | {names.LOGITS: logits}).start()
    for row, length in enumerate(lengths):
        expected, cache = model.expected(IDS[row : row + length + 1])
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-4)
        caches[row].advance(1)
        found = caches[row].valid(0, "key")
        np.testing.assert_allclose(found, cache.layers[0].keys.numpy(), rtol=0, atol=1e-4)


def test_names_and_shapes_follow_the_contract(model):
    dims = model.dims
    cache_shape = ("batch", dims.num_kv_heads, "max_seq_len", dims.head_dim)
    by_name = {spec.name: spec for spec in (*model.spec.inputs, *model.spec.outputs)}
    keys = [(layer, kind) for layer in range(dims.num_layers) for kind in names.KINDS]
    for key in keys:
        assert by_name[names.past(*key)].shape == cache_shape
        assert by_name[names.present(*key)].shape == cache_shape
    assert by_name[names.TOKEN_IDS].shape == ("batch", "tokens")
    assert by_name[names.LOGITS].shape == ("batch", dims.vocab_size)
    assert (names.KEY_POSITIONS in by_name) == (dims.sliding_window is not None)
    others = {names.TOKEN_IDS, names.POSITIONS, names.PAST_LENGTH, names.LOGITS}
    others |= {names.KEY_POSITIONS} & set(by_name)
    assert len(by_name) == 2 * len(keys) + len(others)
    attention = model.eager.model.layers[0].self_attn
    assert dims.num_kv_heads * dims.head_dim == attention.k_proj.out_features
    assert dims.num_kv_heads == model.eager.config.num_key_value_heads == 2


def test_every_weight_is_stored_once_as_external_data(model):
    """A tied LM head is the embedding's table: one copy."""
    num_parameters = model.eager.num_parameters()  # counts a tied table once
    assert num_parameters <= model.spec.num_parameters < 1.02 * num_parameters + 300
    layer_types = getattr(model.eager.model.rotary_emb, "rope_type", None)
    num_tables = len(layer_types) if isinstance(layer_types, dict) else 1
    table_bytes = num_tables * 4 * ORT.num_positions * model.dims.head_dim
    assert model.data.stat().st_size < 4 * 1.1 * num_parameters + 65536 + table_bytes


def test_a_layer_is_a_handful_of_fused_operators(model):
    """Angles come from a table, norms are one operator, and products of one input are one product."""
    graph = onnx.load(model.data.with_suffix(""), load_external_data=False).graph
    count = Counter(node.op_type for node in graph.node)
    assert not {"Cos", "Sin", "Pow", "Sqrt", "Neg", "RMSNormalization"} & set(count)
    num_layers = model.dims.num_layers
    assert count["MatMul"] + count["Gemm"] == 4 * num_layers + 1
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    if model.dims.head_dim % 16 == 0:
        assert all("do_rotary" in str(node.attribute) for node in attentions)
        assert not count["RotaryEmbedding"]
    if model.name in ("llama", "mistral", "qwen2"):
        assert all(not node.input[1] and not node.input[2] for node in attentions)  # packed
    weights = {
        tensor.name: to_array(tensor, str(model.data.parent)) for tensor in graph.initializer
    }
    for node in attentions:  # a sink that weighs nothing keeps ONNX Runtime from working in tiles
        sinks = weights[node.input[_SINK]]
        assert sinks.dtype == np.float32
        assert (np.exp(sinks + 1000) == 0).all()  # also beside scores as low as -1000


def test_large_biases_stay_finite(tmp_path):
    """QwenLM/Qwen3#910: q and k biases of the size that real Qwen2 models have."""
    source = resolve_model(str(tiny_model(tmp_path / "m", "qwen2", layers=1)))
    dims = model_dims(read_config(source), source)
    eager, traced = load_model(source), load_model(source, "c2c")
    for loaded in (eager, traced):
        for side in ("q_proj", "k_proj"):
            getattr(loaded.model.layers[0].self_attn, side).bias.mul_(60.0)
    export_receiver(traced, dims, tmp_path / "graphs")
    cache = allocate_cache(CacheSpec("Receiver", dims, 1, Limits(CAPACITY, CAPACITY)), HostMemory())
    bound = BoundModel(OrtGraph(tmp_path / "graphs" / "receiver.onnx", 1), cache, dims.vocab_size)
    bound.prefill(IDS[:30])
    with torch.no_grad():
        expected = eager(input_ids=torch.tensor([IDS[:30]])).logits[0, -1].numpy()
    assert np.isfinite(bound.logits).all()
    np.testing.assert_allclose(bound.logits, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3_text"])
def test_a_sharer_holds_nothing_past_its_cut(tmp_path, architecture):
    source = resolve_model(str(tiny_model(tmp_path / "m", architecture, layers=4)))
    dims = model_dims(read_config(source), source)
    whole = load_model(source)
    spec = export_sharer(load_model(source, "c2c"), dims, 2, "sharer1", tmp_path / "graphs")
    layers = whole.model.layers
    needed = whole.model.embed_tokens.weight.numel()
    needed += sum(p.numel() for p in layers[0].parameters())
    attention = layers[1].self_attn
    for module in (layers[1].input_layernorm, attention.k_proj, attention.v_proj, attention.k_norm):
        needed += sum(p.numel() for p in module.parameters())
    assert spec.num_parameters == pytest.approx(needed, abs=100)
    assert {s.name for s in spec.outputs} == {
        names.present(layer, kind) for layer in range(2) for kind in names.KINDS
    }
    cache = allocate_cache(CacheSpec("Sharer", dims, 2, Limits(CAPACITY, CAPACITY)), HostMemory())
    for buffer in cache.buffers.values():
        buffer.fill(np.nan)
    bound = BoundModel(OrtGraph(tmp_path / "graphs" / "sharer1.onnx", 1), cache)
    bound.prefill(IDS[:20])
    bound.prefill(IDS[20:40])
    expected = DynamicCache()
    with torch.no_grad():
        whole.model(input_ids=torch.tensor([IDS[:40]]), cache=expected, use_cache=True)
    for layer in range(2):
        for kind, wanted in (("key", expected.layers[layer].keys), ("value", expected.layers[layer].values)):  # fmt: skip
            np.testing.assert_allclose(cache.valid(layer, kind), wanted.numpy(), rtol=0, atol=1e-4)
