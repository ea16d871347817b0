"""Every architecture as Receiver with every one as Sharer equals eager PyTorch over 24 greedy tokens.

Prompts are longer than every sliding window (16) and than the original context of llama3 rope scaling
(32); the second fused section attends to fused keys. Each model is exported once, and so is the Fuser
of each pair of sizes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from tiny_bundles import made_once
from tiny_models import LLAMA3_ROPE, tiny_model

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.fusers.init_fuser import init_fuser
from c2c_export.graphs.export_fuser import export_fuser
from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.pair.links import pair_from_sources
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_export.yardstick.eager import ReceiverChain, clean_caches
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import SCHEMA_VERSION, GraphSpec, Limits, Manifest, ModelDims

CONFIGS = {
    "llama": {"layers": 2, "rope_parameters": LLAMA3_ROPE},
    "mistral": {"layers": 2},
    "qwen2": {"layers": 2},
    "qwen3": {"layers": 2, "head_dim": 24},
    "gemma3_text": {"layers": 7},
}
# Each meets one of the five above on either side.
FURTHER = {
    "phi3": {"layers": 2},
    "olmo2": {"layers": 2},
    "smollm3": {"layers": 2},
    "granite": {"layers": 2},
}
# Windowed layers and the full one. Tracing takes seconds a layer that is linked, and a Fuser more for
# every other size: only gemma3_text has more layers than the rest.
LINKED = {"gemma3_text": (0, 5, 6)}
SECTIONS = ((25, 1), (24, 1), (1, -1))
NUM_GREEDY = 24
TOLERANCE = 1e-4  # the largest difference seen is 1e-5
GRAPH = TypeAdapter(GraphSpec)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``exported(architecture, role)``: the checkpoint, its sizes and its graph, made once."""

    @cache
    def get(architecture: str, role: str):
        def make(directory: Path) -> None:
            seed = 0 if role == "receiver" else 1
            path = tiny_model(
                directory / "model", architecture, seed=seed, **(CONFIGS | FURTHER)[architecture]
            )
            source = resolve_model(str(path))
            dims = model_dims(read_config(source), source)
            model = load_model(source, "c2c")
            if role == "receiver":
                spec = export_receiver(model, dims, directory)
            else:
                spec = export_sharer(model, dims, dims.num_layers, role, directory)
            (directory / "graph.json").write_bytes(GRAPH.dump_json(spec))

        directory = made_once(tmp_path_factory, f"combination_{architecture}_{role}", make)
        source = resolve_model(str(directory / "model"))
        spec = GRAPH.validate_json((directory / "graph.json").read_bytes())
        spec = replace(spec, path=str(directory / f"{role}.onnx"))
        return load_model(source), model_dims(read_config(source), source), spec

    return get


def linked_pair(receiver: ModelDims, sharer: ModelDims, directory: Path):
    """The pair, its Fuser's layers with their links, for a Fuser made in ``directory``."""
    fuser = read_fuser(directory)
    kept = LINKED.get(receiver.architecture, range(receiver.num_layers))
    fuser = replace(fuser, links={layer: fuser.links[layer] for layer in kept})
    pair = pair_from_sources("tiny", receiver, [(sharer, fuser)], ["none"])
    layers = fuser.load_layers()
    return pair, {layer: (fuser.links[layer][0], module) for layer, module in layers.items()}


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """``fused(receiver, sharer)``: the linked pair and the Fuser graph, made once for equal sizes."""

    def get(receiver: ModelDims, sharer: ModelDims):
        def make(directory: Path) -> None:
            sizes = {"hidden_dim": 16, "intermediate_dim": 24}
            init_fuser(receiver, sharer, directory / "fuser", scale=1.0, **sizes)
            pair, linked = linked_pair(receiver, sharer, directory / "fuser")
            layers = {layer: module for layer, (_, module) in linked.items()}
            spec = export_fuser(pair, [layers], directory)
            assert spec is not None
            (directory / "graph.json").write_bytes(GRAPH.dump_json(spec))

        sizes = [(d.num_layers, d.num_kv_heads, d.head_dim) for d in (receiver, sharer)]
        name = "_".join(str(size) for side in sizes for size in side)
        directory = made_once(tmp_path_factory, f"combination_fuser_{name}", make)
        spec = GRAPH.validate_json((directory / "graph.json").read_bytes())
        spec = replace(spec, path=str(directory / "fuser.onnx"))
        return *linked_pair(receiver, sharer, directory / "fuser"), spec

    return get


@pytest.mark.parametrize(
    ("receiver", "sharer"),
    [
        *itertools.product(CONFIGS, CONFIGS),
        *((further, "qwen2") for further in FURTHER),
        *(("qwen3", further) for further in FURTHER),
    ],
)
def test_a_pair_equals_eager(exported, fused, tmp_path, receiver, sharer):
    receiver_model, receiver_dims, receiver_graph = exported(receiver, "receiver")
    sharer_model, sharer_dims, sharer_graph = exported(sharer, "sharer1")
    pair, linked, fuser_graph = fused(receiver_dims, sharer_dims)
    graphs = (receiver_graph, sharer_graph, fuser_graph)
    manifest = Manifest(
        SCHEMA_VERSION, "", pair, Limits(96, 16), "fp32", graphs, (), {}, {}, (), (), {}, {}
    )
    ids = np.random.default_rng(7).integers(3, 256, 50).tolist()

    shared = clean_caches(sharer_model, ids[:-1])
    chain = ReceiverChain(receiver_model, [linked])
    conversation = Session(Bundle(tmp_path, manifest)).conversation()
    start = 0
    for length, mask in SECTIONS[:-1]:
        stop = start + length
        section = [(key[:, :, start:stop], value[:, :, start:stop]) for key, value in shared]
        chain.append(ids[start:stop], [section], mask)
        conversation.append(ids[start:stop], [ids[start:stop]], mask)
        start = stop
    for layer, (key, value) in enumerate(chain.caches):
        for kind, wanted in (("key", key), ("value", value)):
            found = conversation.receiver.valid(layer, kind)
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=TOLERANCE)
    expected, logits = chain.greedy(ids[-1:], NUM_GREEDY)
    greedy = []
    step = ids[-1:]
    for wanted in logits:
        actual = conversation.decode(step)
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=0, atol=TOLERANCE)
        greedy.append(int(np.argmax(actual)))
        step = greedy[-1:]
    assert greedy == expected
    assert len(set(greedy)) > 3, "a constant answer tests nothing"
