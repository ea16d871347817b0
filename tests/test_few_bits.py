"""Bundles for CPUs with weights in 8 and 4 bits, as a user meets them: build, inspect, verify, run."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from tiny_bundles import copied, made_once, options_of, pair_paths, rehashed, text_bundle, text_pair
from tiny_models import tiny_pair

from c2c_runtime.bundle.bundle import MANIFEST_NAME, digest_of, read_manifest

SMALL = ("--max-seq-len", 96, "--max-prompt-len", 16)
MIXED = "receiver=int4,sharer=int8,fuser=fp32"
IDS = "5,6,7,8,9"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """That of test_engine_bundles.py, too."""
    make = lambda directory: text_pair(directory, hidden=64)  # noqa: E731
    return pair_paths(made_once(tmp_path_factory, "engine_pair", make))


def _built(cli, tmp_path_factory, paths, name, *args):
    def make(directory):
        called = cli("build", *options_of(paths), *SMALL, *args, "-o", directory / "b", "--json")
        assert called.code == 0, called.err
        (directory / "report.json").write_text(called.out)

    return made_once(tmp_path_factory, f"few_bits_{name}", make) / "b"


@pytest.fixture
def int8(cli, tmp_path_factory, pair):
    return _built(cli, tmp_path_factory, pair, "int8", "--precision", "int8")


@pytest.fixture
def mixed(cli, tmp_path_factory, pair):
    return _built(cli, tmp_path_factory, pair, "mixed", "--precision", MIXED)


@pytest.fixture
def unverified(cli, tmp_path_factory):
    """int4, of one layer, no tokenizer, and sizes that are no multiple of a block."""

    def make(directory):
        tiny_pair(directory, receiver={"layers": 1}, sharer={"layers": 1})

    paths = pair_paths(made_once(tmp_path_factory, "small_pair", make))
    args = ("--precision", "int4", "--no-verify")
    return _built(cli, tmp_path_factory, paths, "unverified", *args)


def bits_of(bundle, role) -> Counter:
    """How many products of a graph read how many bits; 32: a plain one with a weight."""
    graph = onnx.load(bundle / f"graphs/ort/{role}.onnx", load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = Counter()
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            found[next(a.i for a in node.attribute if a.name == "bits")] += 1
        elif node.op_type in ("MatMul", "Gemm") and weights & set(node.input):
            found[32] += 1
    return found


def test_every_role_has_the_bits_it_was_given(int8, mixed):
    for role in ("receiver", "sharer1"):
        assert set(bits_of(int8, role)) == {8}, role
    assert set(bits_of(int8, "fuser")) == {8, 32}  # some of its matrices are too small to gain
    assert set(bits_of(mixed, "receiver")) == {4, 8}  # attention, MLP down and LM head keep 8
    assert set(bits_of(mixed, "sharer1")) == {8}
    assert set(bits_of(mixed, "fuser")) == {32}
    assert read_manifest(mixed).precision == f"fp32,{MIXED}"


@pytest.mark.parametrize("name", ["int8", "mixed"])
def test_the_manifest_holds_the_loss_and_verify_measures_it_again(cli, request, name):
    bundle = request.getfixturevalue(name)
    loss = read_manifest(bundle).loss
    assert loss.is_prose
    assert loss.measured.num_tokens == 96
    report = json.loads((bundle.parent / "report.json").read_text())
    assert report["loss"]["num_tokens"] == 96
    called = cli("verify", bundle, "--json")
    assert called.code == 0, called.err
    found = called.json["loss"]
    assert found == report["loss"]  # this machine built it
    assert found["greedy_agreement"] == loss.measured.greedy_agreement
    assert 0 < found["kl_divergence"] < loss.bounds.max_kl_divergence
    assert found["perplexity_ratio"] == pytest.approx(1, abs=0.2)
    names = [item["name"] for item in called.json["comparisons"]]
    assert names[-3:] == [
        "few bits: mean cosine of logits of 96 tokens",
        "few bits: best token of 96 tokens",
        "few bits: mean KL divergence of 96 tokens",
    ]
    for command in ("inspect", "verify"):
        called = cli(command, bundle)
        assert called.code == 0, called.err
        assert f"{loss.measured.greedy_agreement:.1%}" in called.out
        assert "in few bits against fp32, 96 tokens" in " ".join(called.out.split())


def test_four_bits_lose_more_than_eight(int8, mixed):
    eight, four = (read_manifest(bundle).loss.measured for bundle in (int8, mixed))
    assert four.perplexity_fp32 == eight.perplexity_fp32
    assert four.kl_divergence > 2 * eight.kl_divergence
    assert four.mean_cosine < eight.mean_cosine


@pytest.mark.parametrize("name", ["int8", "mixed", "unverified"])
def test_bundles_of_few_bits_answer(cli, request, name):
    bundle = request.getfixturevalue(name)
    called = cli(
        "run", bundle, "--prompt-ids", IDS, "--max-new-tokens", 6, "--ignore-eos", "--json"
    )
    assert called.code == 0, called.err
    assert len(called.json["token_ids"]) == 6


def test_a_bundle_that_was_not_verified_holds_no_loss(cli, unverified):
    assert read_manifest(unverified).loss is None
    assert not (unverified / "golden" / "loss.npz").exists()
    assert 4 in bits_of(unverified, "receiver")
    called = cli("verify", unverified, "--json")
    assert called.code == 0, called.err
    assert called.json["loss"] is None


def test_fp32_holds_no_loss_and_a_manifest_without_the_field_opens(cli, tmp_path, tmp_path_factory):
    bundle = copied(text_bundle(tmp_path_factory) / "bundle", tmp_path / "b")
    data = json.loads((bundle / MANIFEST_NAME).read_text())
    assert data.pop("loss") is None
    data["digest"] = digest_of(data)
    (bundle / MANIFEST_NAME).write_text(json.dumps(data))
    called = cli("inspect", bundle)
    assert called.code == 0, called.err
    assert "few bits" not in called.out


@pytest.mark.parametrize(
    ("node", "factor", "failed"),
    [
        ("gate", 2, "few bits: mean cosine"),
        ("head", 2, "few bits: mean KL divergence"),  # the best token stays the best
    ],
)
def test_a_bundle_with_wrong_scales_fails_verification(cli, tmp_path, int8, node, factor, failed):
    bundle = copied(int8, tmp_path / "b")
    path = bundle / "graphs/ort/receiver.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    products = [n for n in graph.node if n.op_type == "MatMulNBits"]
    widest = max if node == "head" else (lambda nodes, key: sorted(nodes, key=key)[-2])
    product = widest(products, key=lambda n: next(a.i for a in n.attribute if a.name == "N"))
    scales = next(tensor for tensor in graph.initializer if tensor.name == product.input[2])
    place = {entry.key: entry.value for entry in scales.external_data}
    weights = np.memmap(
        f"{path}.data", np.float32, "r+", int(place["offset"]), int(place["length"]) // 4
    )
    weights *= factor
    weights.flush()
    called = cli("verify", bundle, "--json")
    assert called.code == 3  # its sha256 differs
    rehashed(bundle, "graphs/ort/receiver.onnx.data")
    called = cli("verify", bundle, "--json")
    assert called.code == 4
    assert any(failed in item["name"] for item in called.json["comparisons"] if not item["ok"])
