"""A pair -> a bundle with engines, on a machine without a GPU: what is built, and what it says then.

Every engine here is a real one of TensorRT-RTX. None is run: that is the gpu tier.
"""

from __future__ import annotations

import json

import pytest
from tiny_bundles import copied, made_once, options_of, pair_paths, text_pair

from c2c_runtime import Session
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.bundle.bundle import Bundle, read_manifest
from c2c_runtime.checks.verification import Comparison
from c2c_runtime.machine.machine import detect_machine

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
SMALL = ("--max-seq-len", 64, "--max-prompt-len", 16)
IDS = "5,6,7,8,9"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    def make(directory):
        text_pair(directory, hidden=64)

    return pair_paths(made_once(tmp_path_factory, "engine_pair", make))


def _build(cli, pair, target, *args):
    called = cli("build", *options_of(pair), *SMALL, *args, "-o", target, "--json")
    assert called.code == 0, called.err
    return called.json


@pytest.fixture
def cpu_bundle(pair, tmp_path_factory, cli):
    return made_once(tmp_path_factory, "engine_cpu", lambda d: _build(cli, pair, d / "b")) / "b"


@pytest.fixture
def bundle(pair, tmp_path_factory, cli):
    """Engines in fp16 for four GPUs."""
    targets = [arg for name in ("sm75", "sm86", "sm89", "sm120") for arg in ("--target", name)]

    def make(directory):
        report = _build(cli, pair, directory / "b", "--backend", "tensorrt-rtx", *targets)
        (directory / "report.json").write_text(json.dumps(report))

    return made_once(tmp_path_factory, "engine_fp16", make) / "b"


def test_one_build_makes_every_engine_for_every_target(bundle):
    report = json.loads((bundle.parent / "report.json").read_text())
    found = {(engine["role"], engine["target"]) for engine in report["engines"]}
    roles, targets = ("receiver", "sharer1", "fuser"), ("sm75", "sm86", "sm89", "sm120")
    assert found == {(role, target) for role in roles for target in targets}
    for engine in report["engines"]:
        network = engine["network"]
        assert network["num_kv_updates"] == 2 * 2  # keys and values of two layers, also the Fuser's
        attentions = {"receiver": 2, "sharer1": 1, "fuser": 0}[engine["role"]]
        assert network["num_attentions"] == attentions
        assert network["num_rotary"] == (
            0 if engine["role"] == "fuser" else 2 * 2 - (2 - attentions)
        )
    manifest = read_manifest(bundle)
    receiver = next(engine for engine in manifest.engines if engine.role == "receiver")
    assert [profile.name for profile in receiver.profiles] == ["decode", "prefill"]
    assert receiver.profiles[1].shapes["token_ids"][2] == (
        2,
        16,
    )  # see docs/engines.md, "One row is two"
    assert manifest.tools["tensorrt-rtx"] == receiver.backend_version
    Bundle.open(bundle).check_hashes()


@pytest.mark.parametrize(
    ("precision", "stored"),
    [
        ("bf16", {"BF16"}),
        ("int4", {"INT4", "INT8"}),  # the LM head in eight bits
        ("fp16,receiver=int8", {"INT8"}),
        ("fp8", {"FP8"}),
    ],
)
def test_other_precisions_are_in_the_engines(cli, pair, tmp_path, cpu_bundle, precision, stored):
    args = ("--backend", "tensorrt-rtx", "--target", "sm89", "--precision", precision)
    report = _build(cli, pair, tmp_path / "b", *args)
    networks = {engine["role"]: engine["network"] for engine in report["engines"]}
    kinds = set(networks["receiver"]["weight_elements"])
    assert kinds == stored
    assert len(report["comparisons"]) > 0
    assert all(Comparison(**item).ok for item in report["comparisons"])


def test_the_graphs_of_a_gpu_bundle_answer_on_the_cpu_if_asked(cli, bundle, cpu_bundle):
    asked = ("--prompt-ids", IDS, "--max-new-tokens", 3, "--ignore-eos", "--json")
    called = cli("run", bundle, *asked, "--device", "cpu")
    assert called.code == 0, called.err
    assert called.json["token_ids"] == cli("run", cpu_bundle, *asked).json["token_ids"]


@pytest.mark.skipif(bool(detect_machine().gpus), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["auto", "tensorrt", "cuda"])
def test_without_a_gpu_it_says_what_is_missing(cli, bundle, device):
    called = cli("run", bundle, "--prompt-ids", IDS, "--device", device)
    assert called.code == 5
    assert "NVIDIA" in called.err
    assert "-> " in called.err
    assert "Traceback" not in called.err


def test_engines_are_made_on_the_device_from_a_bundle_without_any(cli, pair, tmp_path):
    _build(cli, pair, tmp_path / "b", "--backend", "tensorrt-rtx", "--no-engines")
    assert read_manifest(tmp_path / "b").engines == ()
    called = cli(
        "build-engines", tmp_path / "b", "--backend", "tensorrt-rtx", "--target", "sm86", "--json"
    )
    assert called.code == 0, called.err
    assert {engine.target for engine in read_manifest(tmp_path / "b").engines} == {"sm86"}


def test_build_engines_mends_a_bundle_whose_engines_are_damaged(cli, bundle, tmp_path):
    broken = copied(bundle, tmp_path / "broken")
    engines = read_manifest(broken).engines
    path = broken / next(engine.path for engine in engines if engine.target == "sm89")
    path.write_bytes(path.read_bytes()[:-1])
    called = cli("run", broken, "--prompt-ids", IDS)
    assert called.code == 3
    assert "build-engines" in called.err
    answered = cli("run", broken, "--prompt-ids", IDS, "--device", "cpu", "--max-new-tokens", 1)
    assert answered.code == 0  # engines that are not used do no harm
    called = cli("build-engines", broken, "--backend", "tensorrt-rtx", "--target", "sm89")
    assert called.code == 0, called.err
    Bundle.open(broken).check_hashes()
    assert {engine.target for engine in read_manifest(broken).engines} == {
        engine.target for engine in engines
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_fallback_dialect_is_built_and_verified(cli, pair, tmp_path, cpu_bundle, precision):
    args = ("--backend", "tensorrt", "--dialect", "tensorrt-scatter", "--no-engines")
    report = _build(cli, pair, tmp_path / "b", *args, "--precision", precision)
    assert len(report["comparisons"]) > 0
    if precision == "fp32":
        options = GenerationOptions(max_new_tokens=8, ignore_eos=True)
        ids = [int(item) for item in IDS.split(",")]
        answers = []
        for path in (tmp_path / "b", cpu_bundle):
            with Session.open(path, device="cpu") as session:
                answers.append(session.answer(session.sections_of_ids(ids), options).finish())
        assert answers[0].token_ids == answers[1].token_ids


def test_a_bundle_for_onnx_runtime_on_cuda_has_standard_graphs(cli, pair, tmp_path):
    _build(cli, pair, tmp_path / "b", "--target", "cuda")
    manifest = read_manifest(tmp_path / "b")
    assert {graph.dialect for graph in manifest.graphs} == {"tensorrt"}
    assert (manifest.precision, manifest.engines) == ("fp16", ())


RTX = ("--backend", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((*RTX, "--target", "sm90"), 5, "cannot build for sm90"),
        ((*RTX, "--target", "sm87"), 5, "cannot build for sm87"),
        ((*RTX, "--target", "turing"), 2, "no GPU architecture"),
        ((*RTX, "--target", "sm75", "--precision", "bf16"), 5, "sm75 has no bf16"),
        ((*RTX, "--target", "sm75", "--precision", "int4"), 5, "sm75 has no int4"),
        ((*RTX, "--target", "sm86", "--precision", "fp16,receiver=fp8"), 5, "sm86 has no fp8"),
        ((*RTX, "--target", "sm89", "--precision", "fp32"), 5, "no fused attention in fp32"),
        ((*RTX, "--target", "sm89", "--precision", "fp12"), 2, "'fp12' is none of"),
        ((*RTX, "--target", "sm89", "--dialect", "tensorrt-scatter"), 2, "from dialect tensorrt"),
        ((*RTX, "--target", "sm89", "--no-engines"), 2, "builds for no target"),
        (("--backend", "tensorrt", "--target", "sm89"), 5, "tensorrt is not installed"),
        (("--target", "sm89"), 2, "has no target sm89"),
        (("--target", "cpu", "--target", "cuda"), 2, "for the CPU or for GPUs"),
        (("--precision", "fp8"), 5, "with weights in fp32, int8 or int4, not fp8"),
        (("--dialect", "tensorrt"), 2, "--dialect is for"),
        (
            ("--backend", "tensorrt", "--dialect", "tensorrt-scatter", "--no-engines", "--precision", "int4"),
            2,
            "without int4",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_what_cannot_be_built_is_refused_before_anything_is(cli, pair, tmp_path, args, code, words):
    called = cli("build", *options_of(pair), *args, "-o", tmp_path / "b")
    assert called.code == code, called.err
    message = " ".join(called.err.split())
    assert words in message
    assert "-> " in message
    assert "export" not in message.split("error:")[0]
    assert not (tmp_path / "b").exists()
