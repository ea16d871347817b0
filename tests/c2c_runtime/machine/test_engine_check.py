"""Engines that do not fit the machine or are not what was built: refused before they are loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_machines import JETSON, NOTHING, RTX_4090, WORKSTATION
from tiny_bundles import copied, resigned, text_bundle, with_engines

from c2c_runtime.bundle.bundle import Bundle, read_manifest
from c2c_runtime.bundle.manifest import EngineSpec
from c2c_runtime.errors import BundleError, Problem, UnavailableError
from c2c_runtime.machine.backend_choice import choose_backend
from c2c_runtime.machine.engine_check import (
    choose_engines,
    dialects_for,
    engine_problems,
    read_engine,
    same_version,
)
from c2c_runtime.machine.machine import Gpu

SPEC = EngineSpec(
    role="receiver",
    backend="tensorrt-rtx",
    backend_version="1.7.1.116",
    target="sm89",
    platform="linux-x86_64",
    precision="fp16",
    path="engines/tensorrt-rtx-sm89/receiver.engine",
    profiles=(),
)
NO_DRIVER = Problem("no NVIDIA driver was found", "install NVIDIA's driver")


def on(capability):
    return replace(WORKSTATION, gpus=(replace(RTX_4090, capability=capability),))


def with_packages(machine, **packages):
    names = {name.replace("_", "-"): version for name, version in packages.items()}
    return replace(machine, packages=names)


def test_an_engine_that_fits():
    assert engine_problems(SPEC, WORKSTATION) == []


@pytest.mark.parametrize(
    ("spec", "machine", "expected", "found", "remedy"),
    [
        (
            SPEC,
            on("sm86"),
            "sm89",
            "(sm86)",
            "build-engines b --backend tensorrt-rtx --target sm86",
        ),
        # TensorRT-RTX has no such target: its command would fail.
        (SPEC, on("sm90"), "sm89", "(sm90)", "build-engines b --backend tensorrt --target sm90"),
        (
            SPEC,
            with_packages(WORKSTATION, tensorrt_rtx_cu12="1.8.0.40"),
            "the version that built it",
            "installed is 1.8.0.40",
            "build-engines b --backend tensorrt-rtx --target sm89",
        ),
        (
            SPEC,
            with_packages(WORKSTATION, tensorrt_rtx_cu12="1.7.1.120"),
            "1.7.1.116",
            "1.7.1.120",
            "pip install 'tensorrt-rtx-cu12==1.7.1.116'",
        ),
        (
            SPEC,
            with_packages(WORKSTATION, tensorrt="10.16.2"),
            "needs tensorrt-rtx 1.7.1.116",
            "which is not installed",
            "pip install 'tensorrt-rtx-cu12==1.7.1.116'",
        ),
        (
            replace(SPEC, platform="windows-x86_64"),
            WORKSTATION,
            "was built for windows-x86_64",
            "this is linux-x86_64",
            "build it here: c2c-export build-engines b --backend tensorrt-rtx --target sm89",
        ),
        (
            SPEC,
            replace(WORKSTATION, gpus=(), no_gpu=NO_DRIVER),
            "a GPU of compute capability sm89",
            "no NVIDIA driver was found",
            "install NVIDIA's driver",
        ),
    ],
    ids=["capability", "hopper", "version", "build", "library", "platform", "no GPU"],
)
def test_what_does_not_fit_is_named_with_its_remedy(spec, machine, expected, found, remedy):
    (problem,) = engine_problems(spec, machine, "b")
    assert spec.path in problem.cause
    assert expected in problem.cause
    assert found in problem.cause
    assert remedy in problem.remedy


def test_the_wheel_of_the_same_cuda_is_named():
    machine = with_packages(WORKSTATION, tensorrt_rtx_cu13="1.8.0.40")
    (problem,) = engine_problems(SPEC, machine, "b")
    assert "pip install 'tensorrt-rtx-cu13==1.7.1.116'" in problem.remedy


def test_a_jetson_keeps_the_tensorrt_of_its_jetpack():
    spec = replace(
        SPEC,
        backend="tensorrt",
        backend_version="10.16.2.10",
        target="sm87",
        platform="linux-aarch64",
    )
    (problem,) = engine_problems(spec, JETSON, "b")
    assert "installed is 10.3.0" in problem.cause
    assert problem.remedy.endswith("build-engines b --backend tensorrt --target sm87")


def test_every_reason_is_listed():
    problems = engine_problems(SPEC, JETSON, "b")
    text = " ".join(map(str, problems))
    assert len(problems) == 3
    for word in ("linux-aarch64", "not installed", "sm87"):
        assert word in text
    # What a Jetson can build, not what it cannot.
    assert "--backend tensorrt --target sm87" in text
    assert "--backend tensorrt-rtx" not in text


@pytest.mark.parametrize(
    ("built_with", "installed", "same"),
    [
        ("1.7.1.116", "1.7.1.116", True),
        ("10.3.0.30", "10.3.0", True),  # JetPack's package leaves the build number out
        ("10.3.0", "10.3.0.30+cuda12.6", True),
        ("1.7.1.116", "1.7.1.117", False),
        ("1.7.1.116", "1.7.2.116", False),
        ("10.3.0", "10.30", False),
        ("10.3.0", "unknown", False),
    ],
)
def test_versions(built_with, installed, same):
    assert same_version(built_with, installed) is same


def test_dialects_by_version():
    assert dialects_for("tensorrt", "10.3.0") == ("tensorrt-scatter",)
    assert dialects_for("tensorrt", "10.14.1.48") == ("tensorrt-scatter",)
    assert dialects_for("tensorrt", "10.15.1")[0] == "tensorrt"
    assert dialects_for("tensorrt", "11.4.0.106")[0] == "tensorrt"
    assert dialects_for("tensorrt-rtx", "1.7.1.116")[0] == "tensorrt"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture
def bundle(original, tmp_path):
    return with_engines(copied(original, tmp_path / "b"))


def changed(bundle, **changes):
    engines = read_manifest(bundle).engines
    return read_manifest(resigned(bundle, engines=tuple(replace(e, **changes) for e in engines)))


def test_a_complete_set_is_chosen(bundle):
    manifest = read_manifest(bundle)
    best = choose_engines(manifest, WORKSTATION, bundle).best()
    assert {spec.role for spec in best.engines} == {graph.role for graph in manifest.graphs}
    assert (best.backend, best.target, best.gpu) == ("tensorrt-rtx", "sm89", RTX_4090)
    assert best.engine("fuser").path.endswith("fuser.engine")
    assert best.engine("sharer2") is None


def test_of_two_targets_the_one_of_the_first_gpu_is_best(bundle):
    with_engines(bundle, target="sm120")
    second = Gpu(1, "NVIDIA GeForce RTX 5090", "sm120", 32 * 2**30)
    manifest = read_manifest(bundle)
    both = choose_engines(manifest, replace(WORKSTATION, gpus=(RTX_4090, second)), bundle)
    assert [(found.target, found.gpu.index) for found in both.sets] == [("sm89", 0), ("sm120", 1)]
    swapped = replace(WORKSTATION, gpus=(replace(second, index=0), replace(RTX_4090, index=1)))
    assert choose_engines(manifest, swapped, bundle).best().target == "sm120"


def test_an_incomplete_set_is_no_choice(bundle):
    engines = read_manifest(bundle).engines
    manifest = read_manifest(resigned(bundle, engines=engines[1:]))
    choice = choose_engines(manifest, WORKSTATION, bundle)
    assert choice.sets == ()
    assert f"lacks the engine of {engines[0].role}" in choice.problems[0].cause
    assert "build-engines" in choice.problems[0].remedy


@pytest.mark.parametrize(
    ("changes", "machine", "words"),
    [
        ({"target": "sm86"}, WORKSTATION, ["sm86", "(sm89)", "--target sm89"]),
        ({"backend_version": "1.6.0.1"}, WORKSTATION, ["1.6.0.1", "1.7.1.116", "build-engines"]),
        ({}, NOTHING, ["not installed", "pip install", "GPU"]),
    ],
    ids=["capability", "version", "no GPU"],
)
def test_where_no_engine_runs_the_error_says_all_and_exits_with_5(bundle, changes, machine, words):
    choice = choose_engines(changed(bundle, **changes), machine, bundle)
    with pytest.raises(UnavailableError) as caught:
        choice.best()
    assert caught.value.exit_code == 5
    for word in words:
        assert word in str(caught.value)


def test_a_bundle_without_engines_names_the_command_that_builds_some(original):
    manifest = read_manifest(original)
    with pytest.raises(UnavailableError, match="build-engines b --backend tensorrt-rtx"):
        choose_engines(manifest, WORKSTATION, "b").best()
    with pytest.raises(UnavailableError, match=r"build-engines b --backend tensorrt\b(?!-)"):
        choose_engines(manifest, JETSON, "b").best()


def test_engines_answer_before_onnx_runtime_does(bundle):
    manifest = read_manifest(bundle)
    assert choose_backend(manifest, WORKSTATION).engines is not None
    without_gpu = choose_backend(manifest, NOTHING)
    assert (without_gpu.engines, without_gpu.ort_dialect) == (None, "ort")
    nothing = choose_backend(manifest, replace(NOTHING, packages={}))
    assert (nothing.device, nothing.ort_dialect) == (None, None)
    assert "c2c-export[cpu]" in " ".join(map(str, nothing.problems))


def test_an_engine_is_read_as_it_was_built(bundle):
    opened = Bundle.open(bundle)
    spec = opened.manifest.engines[0]
    assert read_engine(opened, spec) == (bundle / spec.path).read_bytes()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, not"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "sha256 differs"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
    ids=["truncated", "altered", "missing"],
)
def test_a_damaged_engine_is_refused_by_name(bundle, damage, says):
    opened = Bundle.open(bundle)
    spec = opened.manifest.engines[0]
    damage(bundle / spec.path)
    with pytest.raises(BundleError) as caught:
        read_engine(opened, spec)
    assert caught.value.exit_code == 3
    for word in (spec.path, says, f"build-engines {bundle} --backend tensorrt-rtx --target sm89"):
        assert word in str(caught.value)
