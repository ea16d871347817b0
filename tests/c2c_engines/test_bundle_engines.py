"""Engines of a whole bundle: several targets, replaced in one step, and nothing left of a failure."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from engine_graphs import ModelSize, requires_rtx, write_engineless_bundle
from interrupts import heeds_ctrl_c
from tiny_bundles import rehashed

from c2c_engines import bundle_engines, install
from c2c_engines.bundle_engines import EngineOptions, _max_section_len, build_engines
from c2c_engines.install import add_engines, with_engines
from c2c_engines.library import load_library
from c2c_runtime.bundle.bundle import MANIFEST_NAME, Bundle, dump_manifest, read_manifest
from c2c_runtime.errors import BundleError, UnavailableError, UsageError

pytestmark = requires_rtx

RTX = "tensorrt-rtx"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A bundle without engines. Copy it."""
    return write_engineless_bundle(tmp_path_factory.mktemp("plain") / "pair.bundle")


@pytest.fixture(scope="module")
def built(plain, tmp_path_factory):
    """The same with engines for sm89. Copy it."""
    root = tmp_path_factory.mktemp("built") / "pair.bundle"
    shutil.copytree(plain, root)
    add_engines(root, EngineOptions(RTX, ("sm89",)))
    return root


@pytest.fixture
def bundle(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "pair.bundle"))


def contents(root):
    """Every file and its bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def opened(root):
    """The manifest of a bundle whose every file is as listed, with nothing beside them."""
    bundle = Bundle.open(root)
    bundle.check_hashes()
    assert set(contents(root)) == {*bundle.manifest.files, MANIFEST_NAME}
    return bundle.manifest


def test_every_role_gets_an_engine_for_every_target(plain, tmp_path):
    root = shutil.copytree(plain, tmp_path / "pair.bundle")
    said = []
    made = add_engines(
        root,
        EngineOptions(RTX, ("sm86", "sm120")),
        lambda fraction, phase: said.append((fraction, phase)),
    )
    manifest = opened(root)
    assert manifest.engines == tuple(engine.spec for engine in made)
    assert [(e.role, e.target) for e in manifest.engines] == [
        (role, target) for target in ("sm86", "sm120") for role in ("sharer1", "fuser", "receiver")
    ]
    receiver = manifest.engines[2]
    version = load_library(RTX).version
    assert receiver.path == f"engines/{RTX}-{version}-sm86/receiver.engine"
    assert (receiver.backend, receiver.backend_version) == (RTX, version)
    assert (receiver.precision, receiver.platform) == ("fp16", f"linux-{os.uname().machine}")
    assert [profile.name for profile in receiver.profiles] == ["decode", "prefill"]
    # More rows than the limits allow, see TensorRTLibrary.min_max_batch.
    assert [profile.shapes["past_length"][2] for profile in receiver.profiles] == [(2,), (2,)]
    assert manifest.tools[RTX] == version
    assert manifest.graphs == read_manifest(plain).graphs
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert any(phase.startswith("fuser for sm120: ") for _, phase in said)


@pytest.mark.parametrize(
    ("precision", "size"),
    [("bf16", ModelSize(dtype="bfloat16")), ("int4", ModelSize(weights="int4"))],
    ids=["bf16", "int4"],
)
def test_other_precisions(tmp_path, precision, size):
    root = write_engineless_bundle(tmp_path / "pair.bundle", precision, size)
    made = add_engines(root, EngineOptions(RTX, ("sm86",)))
    assert {engine.precision for engine in opened(root).engines} == {precision}
    assert made[-1].report.network.num_attentions == 2


def test_the_same_backend_and_target_are_replaced_and_others_stay(bundle):
    before = read_manifest(bundle)
    add_engines(bundle, EngineOptions(RTX, ("sm75",)))
    both = opened(bundle)
    assert both.engines[:3] == before.engines
    old = {name: data for name, data in contents(bundle).items() if "sm89" in name}
    add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    after = opened(bundle)
    assert [(e.role, e.target) for e in after.engines] == [
        (role, target) for target in ("sm75", "sm89") for role in ("sharer1", "fuser", "receiver")
    ]
    # The old ones were read until the manifest named the new, so these lie elsewhere.
    assert not set(old) & set(contents(bundle))
    add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    opened(bundle)


def test_a_failure_leaves_the_bundle_as_it_was(bundle):
    before = contents(bundle)
    with pytest.raises(UnavailableError, match="more than the 64 MiB"):
        add_engines(bundle, EngineOptions(RTX, ("sm89",), max_memory_bytes=64 * 2**20))
    assert contents(bundle) == before


def test_a_failure_before_there_is_a_manifest_leaves_no_folder(plain, tmp_path):
    root = Path(shutil.copytree(plain, tmp_path / "pair.bundle"))
    before = sorted(root.rglob("*"))
    options = EngineOptions(RTX, ("sm89",), max_memory_bytes=64 * 2**20)
    with pytest.raises(UnavailableError, match="more than the 64 MiB"):
        build_engines(root, read_manifest(root), options)
    assert sorted(root.rglob("*")) == before


def test_a_target_that_cannot_be_is_refused_before_anything_is_built(bundle):
    said = []
    with pytest.raises(UnavailableError, match="cannot build for sm90"):
        add_engines(
            bundle, EngineOptions(RTX, ("sm89", "sm90")), lambda *progress: said.append(progress)
        )
    assert said == []


def test_a_precision_that_one_target_lacks_is_refused_before_anything_is_built(tmp_path):
    root = write_engineless_bundle(tmp_path / "b", "bf16", ModelSize(dtype="bfloat16"))
    said = []
    with pytest.raises(UnavailableError, match="sm75 has no bf16"):
        add_engines(
            root, EngineOptions(RTX, ("sm89", "sm75")), lambda *progress: said.append(progress)
        )
    assert said == []
    assert not (root / "engines").exists()


def test_a_bundle_without_graphs_for_this_backend_names_the_command(bundle):
    manifest = read_manifest(bundle)
    graphs = tuple(replace(graph, dialect="ort") for graph in manifest.graphs)
    (bundle / MANIFEST_NAME).write_bytes(dump_manifest(replace(manifest, graphs=graphs)))
    with pytest.raises(BundleError, match="dialect tensorrt; this bundle has ort") as refusal:
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert "c2c-export build --backend tensorrt-rtx" in str(refusal.value)


def test_a_damaged_graph_is_refused(bundle):
    path = bundle / "graphs" / "tensorrt" / "fuser.onnx.data"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BundleError, match=r"fuser\.onnx\.data is not the file that was built"):
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))


def test_an_interrupt_between_the_engines_and_the_manifest_leaves_the_old_ones(bundle, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = contents(bundle)
    monkeypatch.setattr(install, "_replace_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert contents(bundle) == before


def test_an_interrupt_after_the_manifest_leaves_the_new_ones(bundle, monkeypatch):
    replace_manifest = install._replace_manifest

    def interrupt(*arguments):
        replace_manifest(*arguments)
        raise KeyboardInterrupt

    before = read_manifest(bundle).engines
    monkeypatch.setattr(install, "_replace_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert opened(bundle).engines != before


def test_two_builds_do_not_write_into_one_bundle(bundle):
    with install._locked(bundle), pytest.raises(UsageError, match="another build is writing"):
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert install.LOCK not in contents(bundle)


def test_a_process_that_was_killed_keeps_no_lock(bundle):
    (bundle / install.LOCK).touch()
    with install._locked(bundle):
        pass
    assert install.LOCK not in contents(bundle)


def test_a_bundle_that_cannot_be_written_is_said_so(bundle, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(install.FileLock, "acquire", refuse)
    with pytest.raises(UnavailableError, match="cannot be written to") as refusal:
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert "where you may write" in refusal.value.remedy


def test_every_further_build_finds_the_timings_of_the_one_before(bundle, monkeypatch):
    """New engines lie in another folder than those that they replace."""
    found = []

    def build(request, on_progress, **_):
        cache = Path(request.timing_cache_path)
        found.append(cache.read_text() if cache.exists() else None)
        cache.write_text(f"timings {len(found)}")
        Path(request.engine_path).write_bytes(b"engine")
        return SimpleNamespace(seconds=0.0)

    monkeypatch.setattr(bundle_engines, "build_engine_apart", build)
    for _ in range(4):
        add_engines(bundle, EngineOptions(RTX, ("sm89",)))
        opened(bundle)
    assert found == [None, *(f"timings {number}" for number in range(1, 12))]


def test_damaged_timings_are_not_read(bundle, monkeypatch):
    found = []

    def build(request, on_progress, **_):
        cache = Path(request.timing_cache_path)
        found.append(cache.exists())
        Path(request.engine_path).write_bytes(b"engine")
        return SimpleNamespace(seconds=0.0)

    monkeypatch.setattr(bundle_engines, "build_engine_apart", build)
    engine = bundle / read_manifest(bundle).engines[0].path
    cache = engine.with_name("timing.cache")
    cache.write_bytes(b"timings")
    rehashed(bundle, cache.relative_to(bundle).as_posix())
    cache.write_bytes(b"damaged")
    add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    assert found == [False, False, False]


def test_engines_can_be_made_before_there_is_a_manifest_file(plain, tmp_path):
    """As in `c2c-export build`, which writes the manifest last."""
    root = Path(shutil.copytree(plain, tmp_path / "pair.bundle"))
    manifest = read_manifest(root)
    (root / MANIFEST_NAME).unlink()
    made = build_engines(root, manifest, EngineOptions(RTX, ("sm89",)))
    manifest = with_engines(root, manifest, [engine.spec for engine in made])
    (root / MANIFEST_NAME).write_bytes(dump_manifest(manifest))
    assert len(opened(root).engines) == 3


@pytest.mark.parametrize(
    ("whole", "max_fused", "expected"),
    [(False, None, 32), (True, None, 64), (True, 48, 48), (True, 4096, 64)],
)
def test_a_fuser_that_sees_whole_sections_gets_them(plain, whole, max_fused, expected):
    manifest = read_manifest(plain)
    (link,) = manifest.pair.sharers
    link = replace(link, fuses_whole_sections=whole, max_fused_len=max_fused)
    pair = replace(manifest.pair, sharers=(link,))
    assert _max_section_len(replace(manifest, pair=pair)) == expected


def interrupted(root, how):
    """Run the command, end it while the Receiver is built, and wait for its worker to end too."""
    command = [sys.executable, "-m", "c2c_export.cli", "build-engines", str(root)]
    process = subprocess.Popen(
        [*command, "--backend", RTX, "--target", "sm89"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heeds_ctrl_c,
    )
    for line in process.stderr:
        if line.startswith("building receiver for sm89"):
            children = psutil.Process(process.pid).children()
            # As a terminal does: to the whole group of processes.
            os.killpg(process.pid, how)
            break
    else:
        pytest.fail("the Receiver's turn never came")
    process.stderr.read()
    code = process.wait(timeout=60)
    process.stderr.close()
    psutil.wait_procs(children, timeout=60)
    assert len(children) == 1
    assert not any(child.is_running() for child in children)
    return code


def test_ctrl_c_leaves_the_bundle_as_it_was(bundle):
    before = contents(bundle)
    assert interrupted(bundle, signal.SIGINT) == 130
    assert contents(bundle) == before
    assert sorted(path.name for path in bundle.iterdir()) == ["engines", "graphs", MANIFEST_NAME]


def test_a_killed_build_leaves_a_bundle_that_opens_and_the_next_one_clears_up(bundle):
    before = read_manifest(bundle)
    assert interrupted(bundle, signal.SIGKILL) == -signal.SIGKILL
    Bundle.open(bundle).check_hashes()
    assert read_manifest(bundle) == before
    add_engines(bundle, EngineOptions(RTX, ("sm89",)))
    opened(bundle)


def test_the_command_prints_a_table_or_json(bundle, cli):
    called = cli("build-engines", bundle, "--backend", RTX, "--target", "sm86")
    assert called.code == 0, called.err
    assert called.out.strip() == str(bundle)
    assert "building fuser for sm86" in called.err
    assert "networks checked" in called.err
    called = cli("build-engines", bundle, "--backend", RTX, "--target", "8.6", "--json")
    assert called.code == 0, called.err
    engines = {engine["role"]: engine for engine in called.json["engines"]}
    assert set(engines) == {"sharer1", "fuser", "receiver"}
    receiver = engines["receiver"]
    assert (bundle / receiver["path"]).stat().st_size == receiver["report"]["size_bytes"]
    assert receiver["report"]["network"]["num_kv_updates"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--backend", RTX, "--target", "sm90"], 5, "for sm90 run `c2c-export build-engines"),
        (["--backend", RTX, "--target", "cpu"], 2, "give smNN"),
        (["--backend", RTX, "--target", "sm89", "--max-build-memory", "0.05"], 5, "more than the"),
        (["--backend", RTX, "--max-build-memory", "0"], 2, "--max-build-memory"),
        (["--backend", "ort"], 2, "tensorrt-rtx"),
        ([], 2, "--backend"),
    ],
)
def test_what_cannot_be_is_refused_with_its_exit_code(bundle, cli, arguments, code, says):
    before = contents(bundle)
    called = cli("build-engines", bundle, *arguments)
    assert called.code == code, called.err
    assert says in called.err
    assert "Traceback" not in called.err
    assert contents(bundle) == before


def test_no_bundle_is_exit_3(tmp_path, cli):
    called = cli("build-engines", tmp_path, "--backend", RTX, "--target", "sm89")
    assert called.code == 3
    assert MANIFEST_NAME in called.err


@pytest.mark.parametrize("name", ["tensorrt", RTX])
def test_a_backend_that_is_not_installed_is_exit_5(bundle, cli, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name.replace("-", "_"), None)
    called = cli("build-engines", bundle, "--backend", name, "--target", "sm89")
    assert called.code == 5
    assert f"pip install 'c2c-export[{name}]'" in called.err
