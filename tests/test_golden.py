"""The command line against what the published reference computed, for every single-Sharer pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from paths import GOLDEN
from safetensors.numpy import load_file

from c2c_runtime.answers.session import Session
from c2c_runtime.bundle import names

TOLERANCE = 1e-4
CASES = sorted(
    path.parent.name
    for path in GOLDEN.glob("*/case.json")
    if json.loads(path.read_text())["dtype"] == "float32"
)


@pytest.fixture(scope="module", params=CASES)
def golden(request, tmp_path_factory):
    """A golden pair's folder, its case, and the bundle that the library builds from it."""
    from c2c_export.building.build import build_bundle
    from c2c_export.building.build_options import BuildOptions
    from c2c_export.building.progress import Stages
    from c2c_export.pair.asked import AskedLimits
    from c2c_export.pair.pair import explicit_pair

    folder = GOLDEN / request.param
    case = json.loads((folder / "case.json").read_text())
    sharers = [path.name for path in sorted(folder.glob("sharer*"))]
    source = explicit_pair(
        str(folder / "receiver"),
        [str(folder / name) for name in sharers],
        [folder / name.replace("sharer", "fuser") for name in sharers],
        multi_sharer=case["multi_sharer_mode"],
    )
    bundle = tmp_path_factory.mktemp(request.param) / "bundle"
    build_bundle(source, bundle, BuildOptions(limits=AskedLimits(256)), Stages())
    return folder, case, bundle


def test_run_gives_the_reference_tokens(golden, cli):
    _, case, bundle = golden
    ids = ",".join(map(str, case["prompt_ids"]))
    sections = ",".join(f"{length}:{mask}" for length, mask in case["sections"])
    limit = case["max_new_tokens"]
    called = cli("run", bundle, "--prompt-ids", ids, "--sections", sections, "--max-new-tokens", limit, "--ignore-eos", "--json")  # fmt: skip
    assert called.code == 0, called.err
    assert called.json["token_ids"] == case["greedy_ids"]
    assert called.json["finish_reason"] == "length"
    assert called.json["prompt_tokens"] == len(case["prompt_ids"])


def test_receiver_mode_gives_the_receivers_own_tokens(golden, cli):
    _, case, bundle = golden
    ids = ",".join(map(str, case["prompt_ids"]))
    limit = len(case["receiver_alone_ids"])
    called = cli("run", bundle, "--prompt-ids", ids, "--mode", "receiver", "--max-new-tokens", limit, "--ignore-eos", "--json")  # fmt: skip
    assert called.json["token_ids"] == case["receiver_alone_ids"]


def test_every_cache_and_logit_equals_the_reference(golden):
    folder, case, bundle = golden
    expected = load_file(folder / "expected.safetensors")
    with Session.open(bundle) as session:
        conversation = session.conversation()
        # Garbage in every buffer: nothing may read past the valid length.
        for cache in [conversation.receiver, *conversation.sharers]:
            for buffer in cache.buffers.values():
                buffer.fill(np.nan)
        *sections, last = session.sections_of_ids(case["prompt_ids"], case["sections"])
        compared = 0
        if len(sections) == 1:  # with more, a later section attends to fused keys
            for section in sections:
                conversation.append(section.receiver_ids, section.sharer_ids, -1)
            compared += _compare("receiver", conversation.receiver, expected)
            conversation.reset()
        for section in sections:
            conversation.append(section.receiver_ids, section.sharer_ids, section.mask)
        compared += _compare("fused", conversation.receiver, expected)
        for number, cache in enumerate(conversation.sharers, start=1):
            compared += _compare(names.sharer(number), cache, expected)
        assert compared >= 2 * session.bundle.manifest.pair.receiver.num_layers
        logits = [conversation.decode(last.receiver_ids).copy()]
        for token_id in case["greedy_ids"][: len(expected["logits"]) - 1]:
            logits.append(conversation.decode([token_id]).copy())
    np.testing.assert_allclose(np.stack(logits), expected["logits"], rtol=0, atol=TOLERANCE)


def _compare(prefix, cache, expected) -> int:
    """Compare every cache that the graphs keep; returns how many."""
    for layer, kind in cache.buffers:
        actual = cache.valid(layer, kind)
        wanted = expected[f"{prefix}.{layer}.{kind}"]
        np.testing.assert_allclose(
            actual, wanted, rtol=0, atol=TOLERANCE, err_msg=f"{prefix}.{layer}.{kind}"
        )
    return len(cache.buffers)


def test_the_golden_folders_are_here():
    assert Path(GOLDEN, "qwen3_from_qwen2", "case.json").is_file()
    assert len(CASES) >= 6


def test_a_bf16_checkpoint_becomes_an_fp32_bundle(cli, tmp_path):
    """Its weights are computed with in fp32, so its fused caches are near the reference's bf16 ones
    and its tokens are those of eager fp32, which the build verifies."""
    folder = GOLDEN / "bf16"
    sides = [
        item for side in ("receiver", "sharer", "fuser") for item in (f"--{side}", folder / side)
    ]
    called = cli("build", *sides, "--max-seq-len", 64, "-o", tmp_path / "bundle", "--json")
    assert called.code == 0, called.err
    assert all(item["max_rel"] <= 1e-4 for item in called.json["comparisons"])
    with Session.open(tmp_path / "bundle") as session:
        manifest = session.bundle.manifest
        assert manifest.precision == "fp32"
        assert manifest.pair.receiver.dtype == "bfloat16"
        caches = {spec.dtype for graph in manifest.graphs for spec in graph.outputs}
        assert caches == {"float32"}
