"""A golden folder in a dialect for TensorRT, on ONNX Runtime CPU, against what the reference computed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from paths import GOLDEN
from safetensors.numpy import load_file
from static_graphs import cosine
from tiny_bundles import made_once
from trt_networks import parsed_layers

from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.build_target import BuildTarget
from c2c_export.building.progress import Stages
from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.pair.asked import AskedLimits
from c2c_export.pair.pair import explicit_pair
from c2c_runtime import Session
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import MANIFEST, Limits
from c2c_runtime.bundle.precision import GraphPrecision, parse_precision
from c2c_runtime.checks.verification import verify

CAPACITY = 96
CASES = sorted(
    path.parent.name
    for path in GOLDEN.glob("*/case.json")
    if json.loads(path.read_text())["dtype"] == "float32"
)
WRITERS = {"tensorrt": "TensorScatter", "tensorrt-scatter": "ScatterND"}


class Golden:
    """A golden folder's case, and the bundle whose graphs are to compute it."""

    def __init__(self, directory, options: GraphOptions, name: str) -> None:
        self.directory = directory
        self.options = options
        self.case = json.loads((GOLDEN / name / "case.json").read_text())
        self.expected = load_file(GOLDEN / name / "expected.safetensors")
        self.manifest = MANIFEST.validate_json((directory / "manifest.json").read_bytes())
        self.session = Session(Bundle.open(directory))

    def close(self, actual: np.ndarray, wanted: np.ndarray, name: str) -> None:
        if self.options.precision.activations == "fp32":
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4, err_msg=name)
        else:
            assert actual.shape == wanted.shape
            assert cosine(actual, wanted) > 0.999, name

    def close_caches(self, prefix: str, cache) -> int:
        for layer, kind in cache.buffers:
            name = f"{prefix}.{layer}.{kind}"
            self.close(cache.valid(layer, kind), self.expected[name], name)
        return len(cache.buffers)


def golden_of(variant: tuple[str, str, str], factory: pytest.TempPathFactory) -> Golden:
    """Of a dialect, a precision and a folder."""
    dialect, precision, name = variant
    options = GraphOptions(dialect, GraphPrecision(precision), Limits(CAPACITY, CAPACITY))

    def make(directory) -> None:
        folder = GOLDEN / name
        sharers = sorted(path.name for path in folder.glob("sharer*"))
        source = explicit_pair(
            str(folder / "receiver"),
            [str(folder / sharer) for sharer in sharers],
            [folder / sharer.replace("sharer", "fuser") for sharer in sharers],
            multi_sharer=json.loads((folder / "case.json").read_text())["multi_sharer_mode"],
        )
        target = BuildTarget("tensorrt", (), dialect, parse_precision(precision))
        build_options = BuildOptions(target=target, limits=AskedLimits(CAPACITY))
        build_bundle(source, directory / "bundle", build_options, Stages())

    path = made_once(factory, f"golden_{dialect}_{precision}_{name}", make)
    return Golden(path / "bundle", options, name)


def check_numbers(golden: Golden) -> None:
    """Sharers, fused sections, the Receiver's prefill and decode steps, over buffers of garbage."""
    conversation = golden.session.conversation()
    for cache in [conversation.receiver, *conversation.sharers]:
        for buffer in cache.buffers.values():
            buffer.fill(100.0)
    case = golden.case
    sections, start = [], 0
    for length, mask in case["sections"]:
        sections.append((case["prompt_ids"][start : start + length], mask))
        start += length
    num_sharers = len(conversation.sharers)
    for ids, mask in sections[:-1]:
        conversation.append(ids, [ids] * num_sharers, mask)
    compared = golden.close_caches("fused", conversation.receiver)
    for number, cache in enumerate(conversation.sharers, start=1):
        compared += golden.close_caches(names.sharer(number), cache)
    assert compared >= 2 * golden.manifest.pair.receiver.num_layers
    expected = golden.expected["logits"]
    steps = [sections[-1][0], *([token_id] for token_id in case["greedy_ids"])][: len(expected)]
    logits = [conversation.decode(ids).copy() for ids in steps]
    golden.close(np.stack(logits), expected, "logits")
    equal = sum(
        int(row.argmax()) == token_id
        for row, token_id in zip(logits, case["greedy_ids"], strict=False)
    )
    assert equal == len(logits)


def check_verification(golden: Golden) -> None:
    comparisons = list(verify(golden.session))
    assert [item.name for item in comparisons if not item.ok] == []
    by_cosine = golden.options.precision.activations != "fp32"
    metrics = Counter(item.metric for item in comparisons)
    assert set(metrics) == {"cosine" if by_cosine else "difference", "agreement"}


def check_fuser(golden: Golden) -> None:
    """Gathered, and written: nothing else reads a cache that the Fuser changes."""
    if not golden.session.bundle.has_graph(names.FUSER):
        assert not any(gate for link in golden.manifest.pair.sharers for gate in link.gates)
        return
    spec = golden.session.bundle.graph(names.FUSER)
    path = golden.directory / spec.path
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded)
    writer = WRITERS[golden.options.dialect]
    assert loaded.opset_import[0].version == (24 if writer == "TensorScatter" else 20)
    outputs = {tensor.name for tensor in spec.outputs}
    caches = {tensor.name: tensor for tensor in spec.inputs if len(tensor.shape) == 4}
    assert {tensor.shape[2] for tensor in caches.values()} == {CAPACITY}
    readers = {name: [] for name in caches}
    for node in loaded.graph.node:
        for name in set(node.input) & set(readers):
            if node.op_type != "Shape":
                readers[name].append((node.op_type, node.output[0]))
    for name, found in readers.items():
        written = name.replace("past", "present")
        writes = [(writer, written)] if name.startswith("past") and written in outputs else []
        assert [item for item in found if item[0] != "Gather"] == writes, name
        assert sum(op_type == "Gather" for op_type, _ in found) <= 1, name
    layers = parsed_layers(path)
    assert layers["KV_CACHE_UPDATE"] == (len(outputs) if writer == "TensorScatter" else 0)
    assert layers["SCATTER"] == (0 if writer == "TensorScatter" else len(outputs))
