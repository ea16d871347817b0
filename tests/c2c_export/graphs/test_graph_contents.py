"""What the graphs of a built bundle hold and say: no more than open gates need, and always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_bundles import build, copied, made_once, options_of, pair_paths, resigned
from tiny_models import tiny_pair

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.graphs.export_fuser import export_fuser
from c2c_export.pair.links import pair_from_sources
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_export.yardstick.eager import ReceiverChain, clean_caches
from c2c_runtime import GenerationOptions, Session
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import MANIFEST_NAME, read_manifest, sha256_of
from c2c_runtime.bundle.manifest import Limits

GATES = {0: ("key",), 1: ("value",), 2: ()}  # layer -> kinds whose gate is open
CAPACITY = 64
IDS = [int(i) for i in np.random.default_rng(11).integers(3, 256, CAPACITY)]
LIMITS = ["--max-seq-len", str(CAPACITY)]


def set_gates(fuser: Path, gates: dict[int, tuple[str, ...]]) -> None:
    for layer, is_open in gates.items():
        path = fuser / "final" / f"projector_{layer}.pt"
        weights = torch.load(path, weights_only=True)
        for kind in names.KINDS:
            weights[f"{kind}_gate_logit"] = torch.tensor(1.0 if kind in is_open else -1.0)
        torch.save(weights, path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A pair of three layers each, whose third layer is closed, and its bundle."""

    def make(path: Path) -> None:
        paths = tiny_pair(path, receiver={"layers": 3, "head_dim": 20}, sharer={"layers": 3})
        set_gates(paths["fuser"], GATES)
        build(paths, path / "bundle", max_seq_len=CAPACITY)

    return made_once(tmp_path_factory, "gated", make)


@pytest.fixture(scope="module")
def manifest(directory):
    return read_manifest(directory / "bundle")


def graph(manifest, role):
    (found,) = (graph for graph in manifest.graphs if graph.role == role)
    return found


def test_closed_gates_leave_nothing_in_the_fuser_graph(directory, manifest):
    spec = graph(manifest, "fuser")
    assert {tensor.name for tensor in spec.inputs} == {
        "slots",
        "sharer1.slots",
        "past.0.key",
        "past.1.value",
        "sharer1.0.key",
        "sharer1.1.value",
    }
    assert {tensor.name for tensor in spec.outputs} == {"present.0.key", "present.1.value"}
    layers = read_fuser(directory / "fuser").load_layers()
    needed = sum(
        weight.numel()
        for layer, kinds in GATES.items()
        for name, weight in layers[layer].named_parameters()
        if name.startswith(kinds) and not name.endswith("gate_logit")
    )
    # Equal weights are stored once (norms that are all ones), and constants of the graph count too.
    assert spec.num_parameters == pytest.approx(needed, abs=0.02 * needed)


def test_what_only_closed_gates_read_is_not_run(directory, manifest):
    (sharer,) = manifest.pair.sharers
    assert (sharer.dims.num_layers, sharer.num_cached_layers) == (3, 2)
    spec = graph(manifest, "sharer1")
    pasts = {names.past(layer, kind) for layer in range(2) for kind in names.KINDS}
    assert {t.name for t in spec.inputs if t.name.startswith("past.")} == pasts
    with Session.open(directory / "bundle") as session:
        assert set(session.conversation().sharers[0].buffers) == {
            (layer, kind) for layer in range(2) for kind in names.KINDS
        }


def test_a_pair_whose_gates_are_all_closed_has_no_fuser_graph(tmp_path):
    paths = tiny_pair(tmp_path, receiver={"layers": 1}, sharer={"layers": 1})
    set_gates(paths["fuser"], {0: ()})
    sources = [resolve_model(str(paths[role])) for role in ("receiver", "sharer")]
    receiver, sharer = (model_dims(read_config(source), source) for source in sources)
    fuser = read_fuser(paths["fuser"])
    pair = pair_from_sources("closed", receiver, [(sharer, fuser)], ["none"])
    assert pair.sharers[0].num_cached_layers == 0
    assert export_fuser(pair, [fuser.load_layers()], tmp_path / "graphs") is None
    assert not (tmp_path / "graphs").exists()


@pytest.mark.parametrize("role", ["receiver", "sharer1", "fuser"])
def test_names_types_and_shapes_are_those_of_the_contract(directory, manifest, role):
    receiver, sharer = manifest.pair.receiver, manifest.pair.sharers[0].dims
    own = sharer if role == "sharer1" else receiver
    tables = {
        names.TOKEN_IDS: ("int64", ("batch", "tokens")),
        names.POSITIONS: ("int64", ("batch", "tokens")),
        names.PAST_LENGTH: ("int64", ("batch",)),
        names.KEY_POSITIONS: ("int64", ("batch", "max_seq_len")),
        names.LOGITS: ("float32", ("batch", own.vocab_size)),
        names.SLOTS: ("int64", ("tokens",)),
        names.sharer_slots(1): ("int64", ("tokens",)),
    }
    for layer in range(3):
        for kind in names.KINDS:
            shape = ("batch", own.num_kv_heads, "max_seq_len", own.head_dim)
            tables[names.past(layer, kind)] = ("float32", shape)
            tables[names.present(layer, kind)] = ("float32", shape)
            shape = ("batch", sharer.num_kv_heads, "max_seq_len", sharer.head_dim)
            tables[names.sharer_cache(1, layer, kind)] = ("float32", shape)
    spec = graph(manifest, role)
    for tensor in (*spec.inputs, *spec.outputs):
        assert (tensor.dtype, tensor.shape) == tables[tensor.name], tensor.name
    model = onnx.load(directory / "bundle" / spec.path, load_external_data=False)
    for described, values in ((spec.inputs, model.graph.input), (spec.outputs, model.graph.output)):
        assert [tensor.name for tensor in described] == [value.name for value in values]
        for tensor, value in zip(described, values, strict=True):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            dims = value.type.tensor_type.shape.dim
            assert tensor.dtype == dtype.name
            assert tensor.shape == tuple(dim.dim_param or dim.dim_value for dim in dims)


@pytest.mark.parametrize("role", ["receiver", "sharer1", "fuser"])
def test_weights_lie_beside_their_graph_and_are_hashed(directory, manifest, role):
    bundle = directory / "bundle"
    path = bundle / graph(manifest, role).path
    model = onnx.load(path, load_external_data=False)
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {f"{role}.onnx.data"}
    data = path.with_name(f"{role}.onnx.data")
    entry = manifest.files[data.relative_to(bundle).as_posix()]
    assert (entry.size_bytes, entry.sha256) == (data.stat().st_size, sha256_of(data))
    inside = sum(
        len(tensor.raw_data) for tensor in model.graph.initializer if not tensor.external_data
    )
    assert 10 * inside < data.stat().st_size


def test_another_build_of_the_same_pair_is_the_same_bytes(directory, tmp_path):
    """In another process with another hash seed, at another time and place."""
    first, second = directory / "bundle", tmp_path / "elsewhere"
    options = [*options_of(pair_paths(directory)), *LIMITS, "-o", str(second)]
    subprocess.run(
        [sys.executable, "-m", "c2c_export.cli", "build", *options],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        check=True,
        capture_output=True,
    )
    files = {p.relative_to(first) for p in first.rglob("*") if p.is_file()}
    assert files == {p.relative_to(second) for p in second.rglob("*") if p.is_file()}
    different = [f for f in files if (first / f).read_bytes() != (second / f).read_bytes()]
    assert different in ([], [Path(MANIFEST_NAME)])
    manifests = [json.loads((bundle / MANIFEST_NAME).read_text()) for bundle in (first, second)]
    for fields in manifests:
        del fields["created_at"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("role", ["receiver", "sharer1", "fuser"])
def test_a_graph_says_nothing_of_the_machine_it_was_traced_on(directory, manifest, role):
    content = (directory / "bundle" / graph(manifest, role).path).read_bytes()
    assert b".py" not in content
    assert str(directory).encode() not in content


def dirty_conversation(session):
    conversation = session.conversation()
    for cache in [conversation.receiver, *conversation.sharers]:
        for buffer in cache.buffers.values():
            buffer.fill(np.nan)
    return conversation


@pytest.fixture(scope="module")
def expected(directory):
    """Eager logits after a prompt of exactly the capacity, in two fused sections and an unfused one."""
    receiver, sharer = (
        load_model(resolve_model(str(directory / role))) for role in ("receiver", "sharer")
    )
    fuser = read_fuser(directory / "fuser")
    layers = {
        layer: (fuser.links[layer][0], module) for layer, module in fuser.load_layers().items()
    }
    shared = clean_caches(sharer, IDS[:-1])
    chain = ReceiverChain(receiver, [layers])
    for start, stop in ((0, 31), (31, CAPACITY - 1)):
        section = [(key[:, :, start:stop], value[:, :, start:stop]) for key, value in shared]
        chain.append(IDS[start:stop], [section], 1)
    return chain.decode(IDS[-1:]).numpy()


@pytest.mark.parametrize("max_prompt_len", [1, 7, 31, CAPACITY])
def test_a_prompt_in_chunks_is_the_prompt_and_the_longest_fills_the_cache(
    directory, tmp_path, expected, max_prompt_len
):
    bundle = copied(directory / "bundle", tmp_path / "b")
    resigned(bundle, limits=Limits(CAPACITY, max_prompt_len))
    with Session.open(bundle) as session:
        sections = session.sections_of_ids(IDS, [(31, 1), (CAPACITY - 32, 1), (1, -1)])
        conversation = dirty_conversation(session)
        logits = conversation.prefill(sections)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert conversation.receiver.length == CAPACITY
        answer = session.answer(sections, GenerationOptions(ignore_eos=True)).finish()
        assert answer.token_ids == (int(expected.argmax()),)  # it needs no slot
        assert answer.finish_reason == "length"


def test_fusing_changes_the_answer_of_these_prompts(directory, expected):
    """Else the tests above would say nothing about the Fuser."""
    with Session.open(directory / "bundle") as session:
        alone = session.conversation().decode(IDS)
    assert np.abs(alone - expected).max() > 0.1
