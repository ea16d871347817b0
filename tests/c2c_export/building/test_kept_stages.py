"""Builds that find stages of earlier ones: the same bundle, and nothing done twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_bundles import build, options_of
from tiny_models import tiny_pair

from c2c_export.building import graph_stages
from c2c_export.building.build_target import build_target

LIMIT = 96


@dataclass(frozen=True)
class Built:
    """A pair, the bundle that was built from it, and what its build kept."""

    pair: dict[str, Path]
    bundle: Path
    cache: Path


@pytest.fixture(scope="module")
def built_before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    pair = tiny_pair(folder / "pair")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("C2C_CACHE_DIR", str(folder / "cache"))
        bundle = build(pair, folder / "bundle", max_seq_len=LIMIT)
    return Built(pair, bundle, folder / "cache")


@pytest.fixture
def first(built_before, tmp_path, monkeypatch):
    """The same, with a cache of this test alone."""
    shutil.copytree(built_before.cache, tmp_path / "cache")
    monkeypatch.setenv("C2C_CACHE_DIR", str(tmp_path / "cache"))
    return Built(built_before.pair, built_before.bundle, tmp_path / "cache")


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
    files = {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    return files | {"manifest.json": json.loads(files["manifest.json"]) | {"created_at": ""}}


def test_the_same_build_again_traces_nothing_and_reads_no_weights(first, tmp_path, loads, exports):
    second = build(first.pair, tmp_path / "second", max_seq_len=LIMIT)
    assert exports == loads == []
    assert contents(second) == contents(first.bundle)


@pytest.mark.parametrize("precision", ["int8", "int4,fuser=fp32"])
def test_fewer_bits_need_neither_a_trace_nor_the_checkpoint(
    first, tmp_path, loads, exports, precision
):
    """Nor is anything else in the bundle but what a build without a cache writes."""
    target = build_target("ort", precision=precision)
    # What 4 bits lose of random weights is more than a bundle may.
    options = {"max_seq_len": LIMIT, "target": target, "verify": "int4" not in precision}
    kept = build(first.pair, tmp_path / "few", **options)
    assert exports == loads == []
    alone = build(first.pair, tmp_path / "alone", use_cache=False, **options)
    assert contents(kept) == contents(alone)


def test_another_limit_redoes_graphs_and_nothing_that_eager_computed(
    first, tmp_path, loads, exports, monkeypatch
):
    monkeypatch.setattr("c2c_export.building.eager_stages.receiver_expectation", None)
    build(first.pair, tmp_path / "second", max_seq_len=LIMIT + 32, verify=False)
    assert sorted(exports) == ["receiver", "sharer"]  # their rotary tables are longer
    assert sorted(loads) == ["receiver", "sharer"]


def test_another_fuser_redoes_the_fuser(first, tmp_path, loads, exports):
    other = tiny_pair(tmp_path / "other", seed=7)
    pair = first.pair | {"fuser": other["fuser"]}
    build(pair, tmp_path / "second", max_seq_len=LIMIT, verify=False)
    assert exports == ["fuser"]
    assert loads == ["receiver"]  # for the golden cases, which the Fuser is part of


def test_changed_weights_are_seen(first, tmp_path, exports):
    sharer = shutil.copytree(first.pair["sharer"], tmp_path / "sharer")
    weights = load_file(sharer / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 2
    save_file(weights, sharer / "model.safetensors", metadata={"format": "pt"})
    build(first.pair | {"sharer": sharer}, tmp_path / "second", max_seq_len=LIMIT)
    assert exports == ["sharer"]


def test_a_damaged_entry_is_made_again(first, tmp_path, exports):
    (data,) = first.cache.rglob("receiver.onnx.data")
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    second = build(first.pair, tmp_path / "second", max_seq_len=LIMIT)
    assert exports == ["receiver"]
    assert contents(second) == contents(first.bundle)


def test_without_a_cache_nothing_is_kept(cli, first, tmp_path, monkeypatch):
    monkeypatch.setenv("C2C_CACHE_DIR", str(tmp_path / "none"))
    where = ("--no-cache", "--no-verify", "-o", tmp_path / "b")
    called = cli("build", *options_of(first.pair), *where)
    assert called.code == 0, called.err
    assert not (tmp_path / "none").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(first, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("C2C_CACHE_DIR", str(tmp_path / "file" / "cache"))
    built = build(first.pair, tmp_path / "b", max_seq_len=LIMIT, verify=False)
    assert (built / "manifest.json").is_file()


def test_no_work_is_left_in_a_bundle(first):
    manifest = json.loads((first.bundle / "manifest.json").read_text())
    assert {path.split("/")[0] for path in manifest["files"]} == {"golden", "graphs"}
    assert sorted(path.name for path in first.bundle.iterdir()) == [
        "golden",
        "graphs",
        "manifest.json",
    ]
