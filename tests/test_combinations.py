"""Every architecture as Receiver with every one as Sharer equals eager PyTorch over 24 greedy tokens.

Prompts are longer than every sliding window (16) and than the original context of llama3 rope scaling
(32); the second fused section attends to fused keys. Each model is exported once, the Fuser a pair.
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

from c2c_export.checkpoints import load_model, model_dims, read_config, resolve_model
from c2c_export.eager import ReceiverChain, clean_caches
from c2c_export.export_fuser import export_fuser
from c2c_export.export_model import export_receiver, export_sharer
from c2c_export.fuser_checkpoint import read_fuser
from c2c_export.init_fuser import init_fuser
from c2c_export.pair import pair_from_sources
from c2c_runtime.bundle import Bundle
from c2c_runtime.manifest import SCHEMA_VERSION, GraphSpec, Limits, Manifest
from c2c_runtime.session import Session

CONFIGS = {
    "llama": {"layers": 2, "rope_parameters": LLAMA3_ROPE},
    "mistral": {"layers": 2},
    "qwen2": {"layers": 3},
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
SECTIONS = ((25, 1), (24, 1), (1, -1))
NUM_GREEDY = 24
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


@pytest.mark.parametrize(
    ("receiver", "sharer"),
    [
        *itertools.product(CONFIGS, CONFIGS),
        *((further, "qwen2") for further in FURTHER),
        *(("qwen3", further) for further in FURTHER),
    ],
)
def test_a_pair_equals_eager(exported, tmp_path, receiver, sharer):
    receiver_model, receiver_dims, receiver_graph = exported(receiver, "receiver")
    sharer_model, sharer_dims, sharer_graph = exported(sharer, "sharer1")
    fuser = read_fuser(
        init_fuser(
            receiver_dims,
            sharer_dims,
            tmp_path / "fuser",
            hidden_dim=16,
            intermediate_dim=24,
            scale=1.0,
        )
    )
    pair = pair_from_sources("tiny", receiver_dims, [(sharer_dims, fuser)], ["none"])
    layers = fuser.load_layers()
    fuser_graph = export_fuser(pair, [layers], tmp_path)
    assert fuser_graph is not None
    graphs = (receiver_graph, sharer_graph, replace(fuser_graph, path=str(tmp_path / "fuser.onnx")))
    manifest = Manifest(
        SCHEMA_VERSION, "", pair, Limits(96, 16), "fp32", graphs, (), {}, {}, (), (), {}, {}
    )
    ids = np.random.default_rng(7).integers(3, 256, 50).tolist()

    shared = clean_caches(sharer_model, ids[:-1])
    linked = {layer: (fuser.links[layer][0], module) for layer, module in layers.items()}
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
        np.testing.assert_allclose(conversation.receiver.valid(layer, "key"), key.numpy(), rtol=0, atol=2e-4)  # fmt: skip
        np.testing.assert_allclose(conversation.receiver.valid(layer, "value"), value.numpy(), rtol=0, atol=2e-4)  # fmt: skip
    expected, logits = chain.greedy(ids[-1:], NUM_GREEDY)
    found = []
    step = ids[-1:]
    for wanted in logits:
        actual = conversation.decode(step)
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=0, atol=1e-3)
        found.append(int(np.argmax(actual)))
        step = found[-1:]
    assert found == expected
    assert len(set(found)) > 3, "a constant answer tests nothing"
