"""``c2c-export bench`` on a tiny pair: what it writes, and what it refuses. No times are asserted."""

from __future__ import annotations

import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from tiny_bundles import copied, options_of, pair_paths, text_bundle

from c2c_export.bench.peer import PeerSetup
from c2c_export.reading.model_source import ModelSource
from c2c_runtime.backends.ort_backend import OrtBackend
from c2c_runtime.errors import UnavailableError

SMALL = ["--prompt-tokens", "6,12", "--new-tokens", 3, "--rounds", 2, "--threads", 1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return text_bundle(tmp_path_factory)


@pytest.fixture
def no_peer_packages(monkeypatch):
    """As where neither GenAI nor llama.cpp is installed."""
    for module in ("llama_cpp", "onnxruntime_genai"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.fixture(autouse=True)
def little_memory_is_read(monkeypatch):
    monkeypatch.setattr(
        "c2c_export.bench.measure.measure_bandwidth",
        lambda threads, mib: measure(threads, num_mib=1, num_rounds=1),
    )


def measure(threads, **sizes):
    from c2c_export.bench.bandwidth import measure_bandwidth

    return measure_bandwidth(threads, **sizes)


def test_bundle_and_peers(cli, tiny, tmp_path, no_peer_packages, monkeypatch):
    monkeypatch.setattr(OrtBackend, "max_pass_len", 7)  # so that 12 tokens take two passes
    page = tmp_path / "bench.html"
    called = cli(
        "bench", tiny / "bundle", *options_of(pair_paths(tiny / "pair")), *SMALL,
        "--sweep", "prompt,capacity,batch", "--html", page, "--json",
    )  # fmt: skip
    assert called.code == 0, called.err
    report = called.json
    check_machine_and_bundle(report)
    check_measurements(report)
    check_ratios(report)
    check_sweeps(report)
    assert {peer["name"] for peer in report["skipped_peers"]} == {"genai", "llamacpp"}
    for peer in report["skipped_peers"]:
        assert "pip install 'c2c-export[bench]'" in peer["why"]
        assert f"left out {peer['name']}" in " ".join(called.err.split())
    check_page(page.read_text(encoding="utf-8"), report)


def check_machine_and_bundle(report):
    machine = report["machine"]
    assert machine["cpu"]
    assert machine["num_cores"] >= 1
    assert machine["memory_bytes"] > 2**20
    assert machine["versions"]["onnxruntime"]
    assert report["num_threads"] == 1
    assert report["bandwidth"]["bytes_per_s"] > 0
    assert report["bandwidth"]["how"]
    (bundle,) = report["bundles"]
    assert bundle["label"] == "bundle"
    assert set(bundle["weight_bytes"]) == {"receiver", "sharer1", "fuser"}
    # Untied: the embedding is read by single rows, [424, 48] float32.
    assert 0 < bundle["step_bytes"] < bundle["weight_bytes"]["receiver"] - 424 * 48 * 4
    fresh = bundle["fresh"]
    assert 0 < fresh["open_s"] < fresh["first_token_s"] < fresh["process_s"]
    assert 0 < fresh["base_bytes"] < fresh["running_bytes"]
    assert fresh["caches_bytes"] == bundle["caches_bytes"]


def check_measurements(report):
    found = {(item["contender"], item["prompt_tokens"]): item for item in report["measurements"]}
    ours = {f"bundle {mode}" for mode in ("c2c", "prefills", "receiver")}
    peers = {"eager", "eager-last", "transformers"}
    assert set(found) == {(name, length) for name in ours | peers for length in (6, 12)}
    assert {name for (name, _), item in found.items() if item["is_peer"]} == peers
    for (name, _), item in found.items():
        assert len(item["runs"]) == 2
        steps = 0 if name == "bundle prefills" else 2
        assert all(len(run["steps_s"]) == steps for run in item["runs"]), name
        assert (item["decode"] is None) == (steps == 0)
    # A peer that computes something else would be no peer.
    for mode, names in {"c2c": ("eager", "eager-last"), "receiver": ("transformers",)}.items():
        for length in (6, 12):
            answers = {tuple(run["token_ids"]) for name in (f"bundle {mode}", *names) for run in found[name, length]["runs"]}  # fmt: skip
            assert len(answers) == 1, (mode, length)
            assert len(answers.pop()) == 3
    chain = found["bundle c2c", 12]
    for run in chain["runs"]:
        for stage in ("Sharer prefill", "Receiver prefill", "fuse", "first step"):
            assert run["stages"][stage] > 0, stage
        parts = ("prefills", "fuse", "first step", "runtime")
        assert sum(run["stages"][part] for part in parts) == pytest.approx(run["first_token_s"])
        assert all(0 < g < s for g, s in zip(run["graph_steps_s"], run["steps_s"], strict=True))
    assert chain["decode"]["added_s"] > 0
    assert chain["decode"]["bandwidth_share"] > 0
    alone = found["bundle receiver", 12]["runs"][0]["stages"]
    assert alone["Receiver prefill"] > 0
    assert alone["Sharer prefill"] == alone["fuse"] == alone["first step"] == 0
    assert found["bundle prefills", 12]["runs"][0]["stages"]["fuse"] == 0
    assert found["eager", 12]["runs"][0]["stages"]["fuse"] > 0


def check_ratios(report):
    runs = {(m["contender"], m["prompt_tokens"]): m["runs"] for m in report["measurements"]}
    found = {(r["ours"], r["other"], r["metric"]): r for r in report["ratios"] if r["prompt_tokens"] == 12}  # fmt: skip
    assert ("bundle c2c", "eager", "first_token") in found
    assert ("bundle c2c", "bundle prefills", "first_token") in found
    assert ("bundle receiver", "transformers", "first_token") in found
    assert ("bundle c2c", "eager", "fuse") in found
    assert ("bundle receiver", "transformers", "decode_step") in found
    assert (
        "bundle c2c",
        "transformers",
        "first_token",
    ) not in found  # they compute different things
    ratio = found["bundle c2c", "eager", "first_token"]
    ours, other = runs["bundle c2c", 12], runs["eager", 12]
    assert ratio["samples"] == [
        pytest.approx(a["first_token_s"] / b["first_token_s"])
        for a, b in zip(ours, other, strict=True)
    ]
    assert ratio["median"] == pytest.approx(sum(ratio["samples"]) / 2)


def check_sweeps(report):
    sweeps = {sweep["name"]: sweep for sweep in report["sweeps"]}
    assert [point["x"] for point in sweeps["prompt"]["points"]] == [32]  # of 64 tokens
    capacity = sweeps["capacity"]["points"]
    assert [point["x"] for point in capacity] == [512, 2048, 8192]
    assert all(len(point["seconds"]["decode step"]) == 2 for point in capacity)
    assert "built for one row" in sweeps["batch"]["skipped"]
    assert sweeps["batch"]["points"] == []


def check_page(page, report):
    assert not re.search(r"(?:src|href)=|https?://|<script", page)  # nothing is loaded
    assert "prefers-color-scheme: dark" in page
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    # First token and decode step for each length; two things by prompt length and by capacity.
    assert len(charts) == 2 + 2 + 2 + 2
    for chart in charts:
        ET.fromstring(chart)
        assert 'width="-' not in chart
        assert "nan" not in chart
    for stage in ("Sharer prefill", "Receiver prefill", "fuse", "first step"):
        assert f"bundle c2c, {stage}: " in charts[0]
    assert charts[0].count("<rect") >= len(report["measurements"]) / 2
    assert "eager" in charts[0]
    assert "<polyline" in charts[-1]
    for peer in ("genai", "llamacpp"):
        assert f"<td>{peer}</td>" in page
    ratio = next(r for r in report["ratios"] if r["metric"] == "first_token")
    assert f"<td>{ratio['median']:.2f}</td>" in page


def test_several_bundles_are_compared(cli, tiny, tmp_path):
    other = copied(tiny / "bundle", tmp_path / "bundle")
    report_file = tmp_path / "build.json"
    report_file.write_text(json.dumps({"bundle": str(other), "seconds": 12.5}))
    called = cli(
        "bench", tiny / "bundle", other, "--prompt-tokens", 6, "--new-tokens", 2, "--rounds", 1,
        "--build-report", report_file, "--html", tmp_path / "two.html",
    )  # fmt: skip
    assert called.code == 0, called.err
    assert "ms, fp32, 4 of 4 gates open</text>" in (tmp_path / "two.html").read_text()
    words = " ".join(called.out.split())
    assert "bundle#2 c2c" in words
    assert "first token" in words
    assert "cold start" in words


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prompt-tokens", "6,x"], "no list of numbers"),
        (["--prompt-tokens", "1"], "from 2 on"),
        (["--prompt-tokens", "200"], "do not fit into bundle"),
        (["--sweep", "moon"], "there is no sweep moon"),
        (["--peers", "eager"], "none were named"),
        (["--peers", "vllm"], "'vllm' is no peer"),
        (["--pair", "demo", "--receiver", "x"], "say the same thing"),
        (["--html", "no/such/folder/x.html"], "no folder"),
        (["--build-report", "missing.json"], "no report of a build"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_what_makes_no_sense_is_refused(cli, tiny, options, says):
    called = cli("bench", tiny / "bundle", *options)
    assert called.code == 2
    assert says in " ".join(called.err.split())


def test_no_bundle(cli, tmp_path):
    assert cli("bench", tmp_path).code == 3


@pytest.mark.parametrize("what_it_does", ["os.kill(os.getpid(), signal.SIGILL)", "pass"])
def test_a_peer_that_would_end_the_process_is_left_out(tmp_path, monkeypatch, what_it_does):
    """llama.cpp compiled for instructions that this machine does not have."""
    from c2c_export.bench.peer_llamacpp import LlamaCpp

    (tmp_path / "llama_cpp.py").write_text(
        "import os, signal\n"
        "class Llama:\n"
        f"    def __init__(self, path, **options): {what_it_does}\n"
        "    def generate(self, ids, **options): yield 1\n"
        "    def reset(self): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    source = SimpleNamespace(receiver=ModelSource("model.gguf", tmp_path, "model.gguf"))
    setup = PeerSetup(source, lambda ids: (), 64, 1)
    if what_it_does == "pass":
        assert LlamaCpp(setup).run([1, 2], 1).token_ids == (1,)
    else:
        with pytest.raises(UnavailableError, match=r"SIGILL\n.*GGML_NATIVE=OFF"):
            LlamaCpp(setup)
    sys.modules.pop("llama_cpp", None)
