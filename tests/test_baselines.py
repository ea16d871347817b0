"""Bundles built with baselines: what is added, what C2C notices of it, verification, bench."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from baseline_bundles import PROMPT, SPEAKER, baseline_bundle, options
from tiny_bundles import (
    build,
    copied,
    resigned,
    source_of,
    text_pair,
)
from tiny_models import tiny_pair
from transformers import AutoModelForCausalLM

from c2c_export.bench import measure
from c2c_export.bench.bandwidth import Bandwidth
from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.build_target import build_target
from c2c_export.building.progress import Stages
from c2c_export.pair.asked import AskedLimits
from c2c_runtime import GenerationOptions, Session
from c2c_runtime.backends.ort_backend import OrtGraph
from c2c_runtime.bundle.bundle import MANIFEST_NAME, Bundle, digest_of, read_manifest
from c2c_runtime.checks.verification import verify
from c2c_runtime.errors import BundleError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return baseline_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(made):
    return made / "bundle"


def test_c2c_neither_loads_nor_reads_nor_minds_the_speaker(made, bundle, monkeypatch, tmp_path):
    whole = copied(bundle, tmp_path / "b")
    for name in (SPEAKER, f"{SPEAKER}.data", "golden/sharer1_speaker-short.npz"):
        content = bytearray((whole / name).read_bytes())
        content[len(content) // 2] ^= 1
        (whole / name).write_bytes(content)
    loaded = []
    load = OrtGraph.__init__
    monkeypatch.setattr(
        OrtGraph,
        "__init__",
        lambda self, path, *args: (loaded.append(path.stem), load(self, path, *args))[1],
    )
    results = {}
    for path in (made / "plain", whole):
        with Session.open(path, preload=True) as session:
            for mode in ("c2c", "receiver"):
                answer = session.ask(PROMPT, options(mode)).finish()
                results.setdefault(mode, []).append(answer.token_ids)
    assert results["c2c"][0] == results["c2c"][1] != results["receiver"][0]
    assert results["receiver"][0] == results["receiver"][1]
    assert sorted(set(loaded)) == ["fuser", "receiver", "sharer1"]
    with (
        Session.open(whole) as session,
        pytest.raises(BundleError, match=r"speaker.* is not the file that was built"),
    ):
        session.ask(PROMPT, options("sharer")).finish()


def test_only_the_speaker_is_added(made, bundle):
    plain, whole = read_manifest(made / "plain"), read_manifest(bundle)
    added = {SPEAKER, f"{SPEAKER}.data", "golden/sharer1_speaker-short.npz"}
    assert set(whole.files) - set(plain.files) == added
    assert [g.role for g in whole.graphs] == [g.role for g in plain.graphs]
    same = {n for n in plain.files if plain.files[n].sha256 == whole.files[n].sha256}
    assert {name for name in plain.files if not name.endswith(".npz")} <= same
    assert set(Bundle.open(bundle).common_files) == set(Bundle.open(made / "plain").common_files)


def test_a_manifest_from_before_baselines_opens(made, tmp_path):
    old = copied(made / "plain", tmp_path / "b")
    path = old / MANIFEST_NAME
    data = json.loads(path.read_text())
    del data["baselines"]
    path.write_text(json.dumps(data | {"digest": digest_of(data)}))
    assert read_manifest(old).baselines == ()
    with Session.open(old) as session:
        assert session.ask(PROMPT, options("c2c", 3)).finish().token_ids


def test_verify_and_inspect_name_the_baseline(bundle, cli, tmp_path):
    called = cli("verify", bundle, "--json")
    assert called.code == 0, called.err
    found = [item["name"] for item in called.json["comparisons"]]
    for what in ("cache", "first logits", "first logits, reused buffers", "16 greedy tokens"):
        assert f"Sharer 1 alone, short: {what}" in found
    words = " ".join(cli("inspect", bundle).out.split())
    assert "sharer1_speaker" in words
    assert "Sharer 1 (EOS ids 7, 9, 1)" in words
    damaged = copied(bundle, tmp_path / "b")
    weights = damaged / f"{SPEAKER}.data"
    weights.write_bytes(weights.read_bytes()[::-1])
    called = cli("verify", damaged)
    assert called.code == 3
    assert f"{SPEAKER}.data is not the file that was built" in " ".join(called.err.split())


def test_verify_fails_where_the_speaker_computes_something_else(bundle, cli, tmp_path):
    wrong = copied(bundle, tmp_path / "b")
    (baseline,) = read_manifest(wrong).baselines
    (case,) = baseline.golden
    ids = (case.receiver_ids[1], *case.receiver_ids[1:])
    changed = replace(baseline, golden=(replace(case, receiver_ids=ids),))
    resigned(wrong, baselines=(changed,))
    called = cli("verify", wrong, "--json")
    assert called.code == 4
    failed = {item["name"] for item in called.json["comparisons"] if not item["ok"]}
    assert failed
    assert all(name.startswith("Sharer 1 alone") for name in failed)


def test_bench_measures_both_beside_c2c(made, bundle, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "measure_bandwidth", lambda *_: Bandwidth("a guess", (1e9,)))
    small = ("--prompt-tokens", "8,20", "--new-tokens", 3, "--rounds", 2, "--threads", 1)
    modes = ("--mode", "c2c,sharer", "--mode", "t2t", "--message-tokens", 12)
    page = tmp_path / "bench.html"
    called = cli("bench", bundle, *small, *modes, "--html", page, "--json")
    assert called.code == 0, called.err
    found = {(m["mode"], m["prompt_tokens"]): m for m in called.json["measurements"]}
    assert set(found) == {(mode, n) for mode in ("c2c", "sharer", "t2t") for n in (8, 20)}
    for (mode, _), item in found.items():
        assert (item["message_share"] is not None) == (mode == "t2t")
        for one in item["runs"]:
            assert one["message_tokens"] == (12 if mode == "t2t" else 0)
            parts = ("message", "prefills", "fuse", "first step", "runtime")
            total = sum(one["stages"].get(part, 0.0) for part in parts)
            assert total == pytest.approx(one["first_token_s"])
            assert len(one["steps_s"]) == len(one["graph_steps_s"]) == 2
            assert min(one["graph_steps_s"]) > 0
    assert found["sharer", 8]["stages"]["Sharer prefill"] > 0
    told = found["t2t", 8]
    assert 0 < told["stages"]["message"] < told["first_token_s"]
    assert found["sharer", 8]["decode"]["bandwidth_share"] is None  # another model's weights
    against = {(r["ours"], r["other"], r["metric"]) for r in called.json["ratios"]}
    assert ("bundle c2c", "bundle t2t", "first_token") in against
    assert "bundle t2t, message: " in page.read_text(encoding="utf-8")
    shown = cli("bench", bundle, *small, *modes)
    assert "12 tokens, " in shown.out
    refused = cli("bench", made / "plain", *small, "--mode", "t2t")
    assert (refused.code, "--with-baselines" in refused.err) == (2, True)
    assert "no mode moon" in cli("bench", bundle, "--mode", "moon").err
    too_long = cli("bench", bundle, *small, "--mode", "t2t", "--message-tokens", 400)
    assert "give a smaller --message-tokens" in " ".join(too_long.err.split())


def test_engines_have_no_baselines(made, cli, tmp_path):
    called = cli(
        "build", "--pair", "demo", "--backend", "tensorrt", "--no-engines", "--with-baselines",
        "-o", tmp_path / "b",
    )  # fmt: skip
    assert called.code == 2
    assert "--backend ort" in called.err
    assert list(tmp_path.iterdir()) == []


def test_the_speaker_has_its_sharers_precision(made, tmp_path):
    paths = text_pair(tmp_path / "pair", hidden=64)
    target = build_target("ort", precision="fp32,sharer1=int8")
    build(paths, tmp_path / "b", with_baselines=True, target=target, max_seq_len=128)
    manifest = read_manifest(tmp_path / "b")
    (baseline,) = manifest.baselines
    assert baseline.golden[0].min_cosine == 0.99
    weights = manifest.files[f"{SPEAKER}.data"].size_bytes
    assert weights < 0.6 * 4 * baseline.graph.num_parameters  # the embedding stays in fp32
    with Session.open(tmp_path / "b") as session:
        assert all(comparison.ok for comparison in verify(session))


def test_graphs_for_gpus_have_baselines_too(tmp_path):
    paths = tiny_pair(tmp_path / "pair", receiver={"layers": 1}, sharer={"layers": 1})
    target = build_target("ort", ["cuda"], precision="bf16")  # widened to be verified on a CPU
    wanted = BuildOptions(target=target, with_baselines=True, limits=AskedLimits(64))
    report = build_bundle(source_of(paths), tmp_path / "b", wanted, Stages())
    spoken = [item for item in report.comparisons if item.name.startswith("Sharer 1 alone")]
    assert len(spoken) >= 4
    assert all(item.metric in ("cosine", "agreement") for item in spoken)
    graph = read_manifest(tmp_path / "b").baselines[0].graph
    assert (graph.dialect, graph.dtype_of("past.0.key")) == ("tensorrt", "bfloat16")


def test_without_tokenizers_and_open_gates_a_sharer_answers_ids_of_its_own(tmp_path):
    paths = tiny_pair(tmp_path / "pair", open_share=0.0)
    build(paths, tmp_path / "b", with_baselines=True, max_seq_len=64)
    assert [graph.role for graph in read_manifest(tmp_path / "b").graphs] == ["receiver"]
    model = AutoModelForCausalLM.from_pretrained(paths["sharer"]).eval()
    ids = [5, 6, 7, 8, 200]
    with torch.no_grad():
        wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=9, eos_token_id=-1)  # fmt: skip
    ignoring = GenerationOptions(max_new_tokens=9, ignore_eos=True)
    with Session.open(tmp_path / "b") as session:
        speaker = session.sharer(1)
        result = speaker.answer(speaker.sections_of_ids(ids), ignoring).finish()
        assert list(result.token_ids) == wanted[0, len(ids) :].tolist()
        assert result.text is None
        with pytest.raises(UsageError, match="no tokenizer"):
            session.ask(PROMPT, options("sharer"))
