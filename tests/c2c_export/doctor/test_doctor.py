"""``c2c-export doctor``: plain words for every machine, a remedy for all that is missing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_machines
import pytest
from fake_machines import JETSON, NOTHING, WORKSTATION, FakeRuntime, Properties
from tiny_bundles import copied, resigned, text_bundle, with_engines

from c2c_export.doctor import doctor, installed
from c2c_export.doctor.doctor_bundle import caches_bytes, weights_bytes
from c2c_export.doctor.installed import Probe
from c2c_runtime.bundle.bundle import read_manifest
from c2c_runtime.errors import Problem
from c2c_runtime.machine.machine import Machine

REQUIRES = [
    "click>=8.1",
    'onnxruntime>=1.32; extra == "cpu"',
    'onnxruntime-gpu>=1.31; extra == "gpu"',
    'cuda-bindings>=12.6; extra == "gpu"',
    'tensorrt>=10.3; extra == "tensorrt"',
    'tensorrt-rtx-cu12>=1.7; extra == "tensorrt-rtx"',
    'torch>=2.13; extra == "export"',
    'c2c-export[cpu,export]; extra == "dev"',
]
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]
EVERYTHING = {"click": "8.5.1", "torch": "2.13.0"}
NO_DRIVER = Problem("no NVIDIA driver was found", "install it")


@pytest.fixture
def on(monkeypatch):
    """Let ``doctor`` find a machine, with packages besides those of the machine, and libraries that
    say ``probes`` when they are loaded."""

    def put(machine, more=EVERYTHING, **probes):
        packages = {**machine.packages, **more}
        fake_machines.packages(monkeypatch, packages)
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
        described = replace(machine, packages=packages)
        monkeypatch.setattr(doctor, "detect_machine", lambda **_: described)
        said = {"onnxruntime": Probe(answer=["CPUExecutionProvider"]), **probes}
        monkeypatch.setattr(installed, "probe", lambda module: said.get(module, Probe(answer="1")))

    return put


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture
def bundle(original, tmp_path):
    return copied(original, tmp_path / "b")


def backend(report, name):
    return next(item for item in report["backends"] if item["name"] == name)


def causes(problems):
    return " | ".join(f"{item['cause']} -> {item['remedy']}" for item in problems)


def test_this_machine_whatever_it_is(cli):
    called = cli("doctor")
    assert called.code == 0
    assert called.err == ""
    for word in ("onnxruntime", "ort cpu", "ort cuda", "tensorrt-rtx", "NVIDIA driver", "disk"):
        assert word in called.out
    report = cli("doctor", "--json").json
    assert report["bundle"] is None
    assert report["memory_bytes"] is None or report["memory_bytes"] > report["available_bytes"]
    for item in report["backends"]:
        for ability in (item["build"], item["run"]):
            assert ability["can"] in ("yes", "engines", "no")
            assert bool(ability["problems"]) == (ability["can"] != "yes")
            assert all(problem["remedy"] for problem in ability["problems"])


def test_a_workstation_without_a_gpu_builds_engines_but_runs_none(cli, on):
    packages = {"onnxruntime": "1.32.0", "tensorrt-rtx-cu12": "1.7.1.116"}
    no_gpu = Machine("linux-x86_64", "3.11.7", packages, no_gpu=NO_DRIVER)
    on(no_gpu)
    report = cli("doctor", "--json").json
    rtx, ort = backend(report, "tensorrt-rtx"), backend(report, "ort cpu")
    assert (ort["build"]["can"], ort["run"]["can"]) == ("yes", "yes")
    assert (rtx["build"]["can"], rtx["run"]["can"]) == ("yes", "no")
    assert causes(rtx["run"]["problems"]) == "no NVIDIA driver was found -> install it"
    # TensorRT itself builds on a GPU only.
    assert "no NVIDIA driver" in causes(backend(report, "tensorrt")["build"]["problems"])
    assert "pip install 'c2c-export[tensorrt]'" in cli("doctor").out


def test_a_gpu_with_all_packages_runs_everything(cli, on):
    packages = {
        "onnxruntime-gpu": "1.31.1",
        "cuda-bindings": "12.9.4",
        "tensorrt": "10.16.1.11",
        "tensorrt-rtx-cu12": "1.7.1.116",
    }
    on(replace(WORKSTATION, packages=packages), onnxruntime=Probe(answer=PROVIDERS))
    report = cli("doctor", "--json").json
    for name in ("ort cuda", "tensorrt", "tensorrt-rtx"):
        found = backend(report, name)
        assert (name, found["build"]["can"], found["run"]["can"]) == (name, "yes", "yes")
    text = cli("doctor").out
    assert "NVIDIA GeForce RTX 4090, sm89, 23.0 GiB free of 24.0 GiB" in text
    assert "575.57.08, serves CUDA 12.9" in text


def test_a_device_without_the_compiler_builds_engines_only(cli, on):
    on(JETSON, more={"click": "8.5.1"})
    report = cli("doctor", "--json").json
    trt = backend(report, "tensorrt")
    assert (trt["build"]["can"], trt["run"]["can"]) == ("engines", "yes")
    assert "torch is not installed" in causes(trt["build"]["problems"])
    assert "10.3.0 builds from graphs of the dialect tensorrt-scatter only" in trt["note"]
    rtx = causes(backend(report, "tensorrt-rtx")["run"]["problems"])
    assert "not for linux-aarch64 -> use --backend tensorrt" in rtx
    assert "engines only" in cli("doctor").out


def test_a_jetson_without_tensorrt_is_told_where_it_comes_from(cli, on):
    on(replace(JETSON, packages={"cuda-bindings": "12.6.0"}))
    problems = causes(backend(cli("doctor", "--json").json, "tensorrt")["run"]["problems"])
    assert "JetPack" in problems
    assert "pip install" not in problems


def test_a_gpu_that_tensorrt_rtx_does_not_know(cli, on):
    hopper = replace(fake_machines.RTX_4090, name="NVIDIA H100", capability="sm90")
    on(replace(WORKSTATION, gpus=(hopper,)))
    rtx = backend(cli("doctor", "--json").json, "tensorrt-rtx")
    assert (rtx["build"]["can"], rtx["run"]["can"]) == ("yes", "no")
    assert "does not know NVIDIA H100 (sm90)" in causes(rtx["run"]["problems"])


def test_both_onnx_runtimes_break_each_other(cli, on):
    on(replace(WORKSTATION, packages={**WORKSTATION.packages, "onnxruntime-gpu": "1.31.1"}))
    report = cli("doctor", "--json").json
    assert "onnxruntime and onnxruntime-gpu are both installed" in causes(report["conflicts"])
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in causes(report["conflicts"])
    assert "has no CUDA provider" in causes(backend(report, "ort cuda")["run"]["problems"])
    assert "break each other" in cli("doctor").out


def test_the_remedy_for_cuda_does_not_break_what_is_there(cli, on):
    on(WORKSTATION)
    problems = causes(backend(cli("doctor", "--json").json, "ort cuda")["run"]["problems"])
    assert "pip uninstall -y onnxruntime; then pip install 'c2c-export[gpu]'" in problems


def test_two_wheels_of_one_library(cli, on):
    on(WORKSTATION, more={**EVERYTHING, "tensorrt-rtx-cu13": "1.7.1.116"})
    assert "tensorrt-rtx-cu13 and tensorrt-rtx-cu12" in causes(
        cli("doctor", "--json").json["conflicts"]
    )


def test_a_library_that_does_not_load(cli, on):
    why = "ImportError: libcudart.so.12: cannot open shared object file"
    on(WORKSTATION, onnxruntime=Probe(failure=why))
    called = cli("doctor")
    assert called.code == 0
    assert f"onnxruntime cannot be loaded: {why}" in called.out
    assert backend(cli("doctor", "--json").json, "ort cpu")["run"]["can"] == "no"


def test_a_package_that_is_too_old(cli, on):
    on(WORKSTATION, more={**EVERYTHING, "tensorrt-rtx-cu12": "1.2.0.54"})
    problems = causes(backend(cli("doctor", "--json").json, "tensorrt-rtx")["build"]["problems"])
    assert "tensorrt-rtx-cu12 1.2.0.54 (needs >=1.7)" in problems


def test_nothing_is_installed(cli, on, monkeypatch):
    on(replace(NOTHING, packages={}, no_gpu=NO_DRIVER), more={})
    called = cli("doctor")
    assert called.code == 0
    assert "pip install 'c2c-export[cpu]'" in called.out

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", unknown)
    assert cli("doctor").code == 0


def test_a_probe_survives_what_kills_the_process(monkeypatch):
    monkeypatch.setitem(installed._PROBES, "os", "os.kill(os.getpid(), 11)")
    assert installed.probe("os").failure == "it ended with code -11"
    monkeypatch.setitem(installed._PROBES, "no_such_module", "1")
    assert "No module named 'no_such_module'" in installed.probe("no_such_module").failure


def test_a_gpu_seen_through_the_bindings(cli, monkeypatch):
    card = Properties(b"NVIDIA GeForce RTX 3090", 8, 6, 24 * 2**30)
    fake_machines.install(monkeypatch, FakeRuntime((card,)))
    called = cli("doctor")
    assert "NVIDIA GeForce RTX 3090, sm86, 12.0 GiB free of 24.0 GiB" in called.out


def test_a_bundle_of_graphs(cli, on, bundle):
    on(NOTHING)
    called = cli("doctor", bundle)
    assert called.code == 0
    assert "answers with ONNX Runtime on the CPU, from the graphs of the dialect ort" in called.out
    found = cli("doctor", bundle, "--json").json["bundle"]
    assert found["ok"]
    assert found["hashed"]
    assert found["run"]["backend"] == "ort"
    assert found["dialects"] == ["ort"]
    # 2 layers, 2 KV heads, 64 tokens, head_dim 16 and 12, key and value, fp32.
    assert found["caches_bytes"] == 2 * 2 * 64 * (16 + 12) * 2 * 4
    on_disk = sum(path.stat().st_size for path in (bundle / "graphs/ort").iterdir())
    assert found["weights_bytes"] == on_disk


def test_engines_that_run_here(cli, on, bundle):
    with_engines(bundle)
    on(WORKSTATION)
    called = cli("doctor", bundle)
    assert called.code == 0
    assert "answers with the tensorrt-rtx 1.7.1.116 engines for sm89, fp16, on GPU 0" in called.out
    found = cli("doctor", bundle, "--json").json["bundle"]
    assert [engine["runs"] for engine in found["engines"]] == [True] * 3
    assert found["run"]["gpu"]["capability"] == "sm89"
    assert found["advice"] == []


def test_engines_for_another_gpu(cli, on, bundle):
    with_engines(bundle, target="sm86")
    on(WORKSTATION)
    called = cli("doctor", bundle)
    assert called.code == 0
    assert "needs a GPU of compute capability sm86" in called.out
    command = f"c2c-export build-engines {bundle} --backend tensorrt-rtx --target sm89"
    assert command in called.out
    found = cli("doctor", bundle, "--json").json["bundle"]
    assert found["run"]["backend"] == "ort"
    assert not any(engine["runs"] for engine in found["engines"])


def test_a_jetson_is_told_which_dialect_it_needs(cli, on, bundle):
    on(JETSON)
    advice = causes(cli("doctor", bundle, "--json").json["bundle"]["advice"])
    assert "tensorrt 10.3.0 builds engines from graphs of the dialect tensorrt-scatter" in advice
    assert "--dialect tensorrt-scatter --no-engines" in advice

    graphs = read_manifest(bundle).graphs
    resigned(bundle, graphs=tuple(replace(g, dialect="tensorrt-scatter") for g in graphs))
    advice = causes(cli("doctor", bundle, "--json").json["bundle"]["advice"])
    assert f"build-engines {bundle} --backend tensorrt --target sm87" in advice


def test_a_bundle_that_nothing_answers(cli, on, bundle):
    on(replace(NOTHING, packages={}))
    called = cli("doctor", bundle)
    assert called.code == 0
    assert "cannot answer here (exit code 5)" in called.out
    assert cli("doctor", bundle, "--json").json["bundle"]["run"]["backend"] is None


def test_more_memory_than_there_is(cli, on, bundle, monkeypatch):
    on(NOTHING)
    monkeypatch.setattr(doctor, "available_bytes", lambda: 1000)
    assert "of memory; 0.0 GiB are available" in cli("doctor", bundle).out


ENGINE = "engines/tensorrt-rtx-sm89/receiver.engine"


@pytest.mark.parametrize(
    ("damage", "says", "seen_quickly"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, not", True),
        (lambda path: path.unlink(), "is missing", True),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "sha256 differs", False),
    ],
    ids=["truncated", "missing", "altered"],
)
def test_a_damaged_engine(cli, on, bundle, damage, says, seen_quickly):
    with_engines(bundle)
    damage(bundle / ENGINE)
    on(WORKSTATION)
    called = cli("doctor", bundle)
    assert called.code == 3
    message = " ".join(called.err.split())
    for word in (ENGINE, says, f"build-engines {bundle} --backend tensorrt-rtx --target sm89"):
        assert word in message
    assert "Backends" in called.out  # the machine is shown all the same
    assert "answers with" not in called.out
    quick = cli("doctor", bundle, "--quick", "--json")
    assert quick.code == (3 if seen_quickly else 0)
    assert quick.json["bundle"]["ok"] is not seen_quickly
    assert not quick.json["bundle"]["hashed"]


@pytest.mark.parametrize("content", [None, b"{", b'{"schema_version": 99}', b"\xff"])
def test_no_bundle_at_all(cli, on, tmp_path, content):
    on(NOTHING)
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    called = cli("doctor", tmp_path / ("" if content else "nowhere"), "--json")
    assert called.code == 3
    assert "Traceback" not in called.err
    assert called.json["bundle"]["damage"]
    assert called.json["bundle"]["run"] is None


def test_cache_sizes_follow_batch_and_length(original):
    manifest = read_manifest(original)
    limits = replace(manifest.limits, max_batch_size=3, max_seq_len=128)
    assert caches_bytes(replace(manifest, limits=limits), "ort") == 6 * caches_bytes(
        manifest, "ort"
    )
    assert caches_bytes(manifest, "tensorrt") == weights_bytes(manifest, "tensorrt") == 0


def test_doctor_is_light():
    """It looks at machines where only the runtime is installed, and loads no backend here."""
    code = (
        "import sys\n"
        "import c2c_export.commands.doctor\n"
        "from c2c_export.doctor.doctor import examine_machine\n"
        "from pathlib import Path\n"
        "examine_machine(Path())\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', "
        "'polygraphy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert ended.stderr == ""
    assert json.loads(ended.stdout.replace("'", '"')) == []
