"""Builds that find stages of earlier ones: the same bundle, and nothing done twice."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file
from tiny_bundles import build, options_of
from tiny_models import tiny_pair

from c2c_export.building import graph_stages
from c2c_export.building.build_target import build_target


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("C2C_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pair(tmp_path):
    return tiny_pair(tmp_path / "pair")


@pytest.fixture
def loads(monkeypatch):
    """Whose weights were read, model by model."""
    loaded = []
    real = graph_stages.load_model
    monkeypatch.setattr(
        graph_stages, "load_model", lambda source: loaded.append(source.name) or real(source)
    )
    return loaded


@pytest.fixture
def exports(monkeypatch):
    """What was traced."""
    traced = []
    for name in ("export_sharer", "export_fuser", "export_receiver"):
        real = getattr(graph_stages, name)

        def noting(*args, name=name, real=real):
            traced.append(name.removeprefix("export_"))
            return real(*args)

        monkeypatch.setattr(graph_stages, name, noting)
    return traced


def contents(bundle):
    """Every file of a bundle, but for the time of its build."""
    files = {p.relative_to(bundle): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    manifest = next(path for path in files if path.name == "manifest.json")
    files[manifest] = json.loads(files[manifest]) | {"created_at": ""}
    return files


def test_the_same_build_again_traces_nothing_and_reads_no_weights(
    cache, pair, tmp_path, loads, exports
):
    first = build(pair, tmp_path / "first", max_seq_len=64)
    assert sorted(exports) == ["fuser", "receiver", "sharer"]
    assert sorted(loads) == ["receiver", "sharer"]
    second = build(pair, tmp_path / "second", max_seq_len=64)
    assert (len(exports), len(loads)) == (3, 2)
    assert contents(first) == contents(second)


@pytest.mark.parametrize("precision", ["int8", "int4,fuser=fp32"])
def test_fewer_bits_need_neither_a_trace_nor_the_checkpoint(
    cache, pair, tmp_path, loads, exports, precision
):
    """Nor is anything else in the bundle but what a build without a cache writes."""
    build(pair, tmp_path / "fp32", max_seq_len=64)
    del loads[:], exports[:]
    target = build_target("ort", precision=precision)
    # What 4 bits lose of random weights is more than a bundle may.
    options = {"max_seq_len": 64, "target": target, "verify": "int4" not in precision}
    kept = build(pair, tmp_path / "few", **options)
    assert loads == exports == []
    alone = build(pair, tmp_path / "alone", use_cache=False, **options)
    assert contents(kept) == contents(alone)


def test_another_limit_redoes_graphs_and_nothing_that_eager_computed(
    cache, pair, tmp_path, loads, exports, monkeypatch
):
    build(pair, tmp_path / "first", max_seq_len=96)
    del loads[:], exports[:]
    monkeypatch.setattr("c2c_export.building.eager_stages.receiver_expectation", None)
    build(pair, tmp_path / "second", max_seq_len=128)
    assert sorted(exports) == ["receiver", "sharer"]  # their rotary tables are longer
    assert sorted(loads) == ["receiver", "sharer"]


def test_another_fuser_redoes_the_fuser(cache, pair, tmp_path, loads, exports):
    build(pair, tmp_path / "first", max_seq_len=64)
    del loads[:], exports[:]
    other = tiny_pair(tmp_path / "other", seed=7)
    build(pair | {"fuser": other["fuser"]}, tmp_path / "second", max_seq_len=64)
    assert exports == ["fuser"]
    assert loads == ["receiver"]  # for the golden cases, which the Fuser is part of


def test_changed_weights_are_seen(cache, pair, tmp_path, exports):
    build(pair, tmp_path / "first", max_seq_len=64)
    del exports[:]
    path = pair["sharer"] / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] *= 2
    save_file(weights, path, metadata={"format": "pt"})
    build(pair, tmp_path / "second", max_seq_len=64)
    assert exports == ["sharer"]


def test_a_damaged_entry_is_made_again(cache, pair, tmp_path, exports):
    first = build(pair, tmp_path / "first", max_seq_len=64)
    before = contents(first)
    del exports[:]
    for path in cache.rglob("receiver.onnx.data"):
        path.write_bytes(b"")
    second = build(pair, tmp_path / "second", max_seq_len=64)
    assert exports == ["receiver"]
    assert contents(second) == before


def test_without_a_cache_nothing_is_kept(cli, cache, pair, tmp_path):
    called = cli("build", *options_of(pair), "--no-cache", "--no-verify", "-o", tmp_path / "b")
    assert called.code == 0, called.err
    assert not cache.exists()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "golden",
        "graphs",
        "manifest.json",
    ]


def test_no_work_is_left_in_a_bundle(cache, pair, tmp_path):
    bundle = build(pair, tmp_path / "b", max_seq_len=64, verify=False)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {path.split("/")[0] for path in manifest["files"]} == {"golden", "graphs"}
    assert not (bundle / "scratch").exists()
