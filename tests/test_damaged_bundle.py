"""Bundles that are not as they were built: refused by name, before they answer anything."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from tiny_bundles import copied, rehashed, resigned, sha256_of, text_bundle

from c2c_runtime.bundle.bundle import MANIFEST_NAME, Bundle, digest_of, read_manifest
from c2c_runtime.bundle.manifest import SCHEMA_VERSION, FileEntry
from c2c_runtime.errors import BundleError

GRAPHS = "graphs/ort"
FILES = (
    "alignment/sharer1.npy",
    "golden/short.npz",
    *(f"{GRAPHS}/{role}.onnx{part}" for role in ("fuser", "receiver", "sharer1") for part in ("", ".data")),
    *(f"tokenizers/{role}/{name}" for role in ("receiver", "sharer1") for name in ("chat_template.jinja", "tokenizer.json")),
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture
def bundle(original, tmp_path):
    return copied(original, tmp_path / "b")


@pytest.fixture
def refused(cli, bundle):
    """``run``, ``verify`` and, where contents need not be read, ``inspect`` refuse the bundle."""

    def call(*words, commands=("run", "verify", "inspect")):
        for command in commands:
            called = cli(command, bundle, *(["Hello"] if command == "run" else []))
            assert called.code == 3, (command, called.err)
            message = " ".join(called.err.split())
            for word in words:
                assert str(word) in message, called.err
            assert "-> " in message
            assert "Traceback" not in message
            assert "bug of c2c-export" not in message
            assert called.out == ""

    return call


def test_every_file_of_a_bundle_is_tried_below(original):
    on_disk = {p.relative_to(original).as_posix() for p in original.rglob("*") if p.is_file()}
    assert on_disk == {*FILES, MANIFEST_NAME}
    assert set(read_manifest(original).files) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte(refused, bundle, name):
    path = bundle / name
    content = path.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        commands = ("run", "verify") if position else ("run",)
        refused(f"{name} is not the file that was built", "build", commands=commands)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(refused, bundle, name):
    (bundle / name).unlink()
    refused(f"{name} is missing", "copy it again")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(refused, bundle, name):
    path = bundle / name
    size = path.stat().st_size
    os.truncate(path, size - 1)
    refused(f"{name} has {size - 1} bytes, not {size}")


def test_everything_missing_is_listed_at_once(refused, bundle):
    for name in FILES:
        (bundle / name).unlink()
    refused(*(f"{name} is missing" for name in FILES))


# The manifest.


def test_a_missing_manifest(refused, bundle):
    (bundle / MANIFEST_NAME).unlink()
    refused(f"{bundle} is no bundle", "build -o")


def test_no_such_directory(cli, tmp_path):
    for command, *args in (["run", tmp_path / "nope", "Hello"], ["verify", tmp_path / "nope"]):
        called = cli(command, *args)
        assert called.code == 3
        assert f"{tmp_path / 'nope'}: no such directory" in called.err
        assert "-> " in called.err


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[]", b"{}", b"null", b'"text"', b"\xff\xfe\x00", b"[" * 100_000],
    ids=lambda content: repr(content[:10]),
)
def test_a_manifest_that_is_none(refused, bundle, content):
    (bundle / MANIFEST_NAME).write_bytes(content)
    refused(f"{bundle / MANIFEST_NAME} is damaged")


def _edit(bundle, change):
    path = bundle / MANIFEST_NAME
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_newer_schema(refused, bundle):
    _edit(bundle, lambda fields: fields.update(schema_version=99, files=[], surprise=1))
    refused(f"schema version 99; this runtime reads version {SCHEMA_VERSION}", "upgrade c2c-export")


def test_unknown_missing_and_wrong_fields_are_named(refused, bundle):
    def change(fields):
        fields["surprise"] = 1
        fields["limits"]["max_seq_len"] = "many"
        del fields["pair"]["receiver"]["head_dim"]

    _edit(bundle, change)
    refused("surprise", "limits.max_seq_len", "pair.receiver.head_dim")


def test_an_edited_manifest(refused, bundle):
    _edit(bundle, lambda fields: fields["limits"].update(max_seq_len=63))
    refused("was changed after the build")


def test_a_bundle_written_before_a_field_had_a_default_still_opens(cli, bundle):
    """The digest is of what was written, not of what this version would write."""

    def before(fields):
        for sharer in fields["pair"]["sharers"]:
            del sharer["fuses_whole_sections"]
            del sharer["max_fused_len"]
        fields["digest"] = digest_of(fields)

    _edit(bundle, before)
    assert cli("run", bundle, "Hello", "--max-new-tokens", 2).code == 0


def test_any_changed_byte_of_the_manifest_is_noticed_or_harmless(bundle):
    path = bundle / MANIFEST_NAME
    content = path.read_bytes()
    original = read_manifest(bundle)
    noticed = 0
    positions = np.random.default_rng(0).integers(0, len(content), 400)
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        try:
            manifest = Bundle.open(bundle).manifest
        except BundleError:
            noticed += 1
        else:  # a blank, or the date, which no digest covers
            assert replace(manifest, created_at="") == replace(original, created_at="")
    assert noticed > 250


# Paths that leave the bundle, vouched for by a manifest whose digest is right.


@pytest.fixture
def outside(original, tmp_path):
    """A whole and correct Receiver graph beside the bundle."""
    return copied(original / GRAPHS, tmp_path / "outside") / "receiver.onnx"


def _point_receiver_to(bundle, name, file):
    manifest = read_manifest(bundle)
    graphs = tuple(
        replace(graph, path=name) if graph.role == "receiver" else graph
        for graph in manifest.graphs
    )
    entry = FileEntry(file.stat().st_size, sha256_of(file))
    resigned(bundle, graphs=graphs, files=manifest.files | {name: entry})


def test_a_path_with_dots(refused, bundle, outside):
    _point_receiver_to(bundle, "../outside/receiver.onnx", outside)
    refused("../outside/receiver.onnx, which leaves the bundle")


def test_a_path_with_dots_that_comes_back(refused, bundle, outside):
    name = "graphs/../graphs/ort/receiver.onnx"
    _point_receiver_to(bundle, name, bundle / name)
    refused(f"{name}, which leaves the bundle")


def test_an_absolute_path(refused, bundle, outside):
    _point_receiver_to(bundle, str(outside), outside)
    refused(f"{outside}, which leaves the bundle")


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_link_out_of_the_bundle(refused, bundle, outside, level):
    inside = bundle / GRAPHS / "receiver.onnx"
    if level == "file":
        inside.unlink()
        inside.symlink_to(outside)
    else:
        inside.parent.rename(bundle / "hidden")
        inside.parent.symlink_to(outside.parent)
    refused(f"{GRAPHS}/receiver.onnx, which leaves the bundle")


def test_a_file_that_is_used_but_not_vouched_for(refused, bundle):
    files = dict(read_manifest(bundle).files)
    del files[f"{GRAPHS}/receiver.onnx"]
    resigned(bundle, files=files)
    refused(f"uses {GRAPHS}/receiver.onnx but does not list it")


def test_weights_outside_the_bundle_are_not_read(refused, bundle, outside):
    name = f"{GRAPHS}/receiver.onnx"
    model = onnx.load(bundle / name, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../../outside/receiver.onnx.data"
    onnx.save(model, bundle / name)
    rehashed(bundle, name)
    refused(name, commands=("run", "verify"))


# What only ``verify`` can see: files that are wrong, but vouched for.


@pytest.mark.parametrize("role", ["receiver", "sharer1", "fuser"])
def test_wrong_weights_fail_verification(cli, bundle, role):
    name = f"{GRAPHS}/{role}.onnx.data"
    weights = np.fromfile(bundle / name, np.float32)
    (weights * np.float32(1.01)).tofile(bundle / name)
    rehashed(bundle, name)
    _assert_verification_fails(cli, bundle)


def test_wrong_greedy_tokens_fail_verification(cli, bundle):
    (case,) = read_manifest(bundle).golden
    ids = (*case.greedy_ids[:-1], (case.greedy_ids[-1] + 1) % 424)
    resigned(bundle, golden=(replace(case, greedy_ids=ids),))
    _assert_verification_fails(cli, bundle)


def _assert_verification_fails(cli, bundle):
    called = cli("verify", bundle, "--json")
    assert called.code == 4, called.err
    assert "outside tolerance" in called.err
    assert "-> " in called.err
    assert called.json["ok"] is False
    assert not all(row["ok"] for row in called.json["comparisons"])
    table = cli("verify", bundle)
    assert table.code == 4
    assert "FAILED" in table.out


def test_an_undamaged_copy_opens_answers_and_verifies(cli, bundle):
    assert cli("inspect", bundle).code == 0
    assert cli("run", bundle, "Hello", "--max-new-tokens", 2).code == 0
    called = cli("verify", bundle, "--json")
    assert called.code == 0, called.err
    assert called.json["ok"] is True
    assert len(called.json["comparisons"]) >= 8
