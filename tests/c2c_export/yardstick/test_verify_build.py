"""The check that ends a build, while somebody else builds to the same place."""

from __future__ import annotations

import pytest
from tiny_bundles import build
from tiny_models import tiny_pair

from c2c_export.building.build_target import build_target
from c2c_export.building.bundle_writer import write_bundle
from c2c_export.yardstick import verify_build
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import UsageError


def test_a_bf16_build_keeps_its_widened_graphs_while_another_one_is_refused(tmp_path, monkeypatch):
    verify, output = verify_build.verify, tmp_path / "out" / "a.bundle"
    beside = []

    def disturbed(session):
        beside.extend(path.name for path in output.parent.iterdir() if path.is_dir())
        with pytest.raises(UsageError, match="another build"), write_bundle(output):
            pass
        return verify(session)

    monkeypatch.setattr(verify_build, "verify", disturbed)
    paths = tiny_pair(tmp_path / "pair", receiver={"layers": 1}, sharer={"layers": 1})
    target = build_target(
        "tensorrt", precision="bf16", dialect="tensorrt-scatter", with_engines=False
    )
    build(paths, output, target=target, max_seq_len=64)
    assert len(beside) == 1  # what is being written, and nothing that it does not own
    assert [path.name for path in output.parent.iterdir()] == ["a.bundle"]
    bundle = Bundle.open(output)
    bundle.check_hashes()
    stored = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert stored == {*bundle.manifest.files, "manifest.json"}
