"""Writing a bundle's directory: all of it under its name, or nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from c2c_export.building.bundle_writer import write_bundle
from c2c_runtime.bundle.bundle import MANIFEST_NAME
from c2c_runtime.errors import PairError, UnavailableError, UsageError


def write(target, content: str = "new", force: bool = False):
    with write_bundle(target, force=force) as writer:
        (writer.path / MANIFEST_NAME).write_text(content)
        writer.commit()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_committed_bundle_has_its_name_and_nothing_lies_beside_it(tmp_path):
    target = tmp_path / "deep" / "down" / "a.bundle"
    write(target)
    assert (target / MANIFEST_NAME).read_text() == "new"
    assert names(target.parent) == ["a.bundle"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_not_committed_is_gone_and_the_old_bundle_stays(tmp_path, error):
    target = tmp_path / "a.bundle"
    write(target, "old")
    with pytest.raises(error), write_bundle(target, force=True) as writer:  # noqa: PT012
        (writer.path / MANIFEST_NAME).write_text("new")
        assert (target / MANIFEST_NAME).read_text() == "old"
        raise error
    assert (target / MANIFEST_NAME).read_text() == "old"
    assert names(tmp_path) == ["a.bundle"]


def test_force_replaces_the_old_bundle(tmp_path):
    target = tmp_path / "a.bundle"
    write(target, "old")
    with pytest.raises(UsageError, match="--force"):
        write(target)
    write(target, force=True)
    assert (target / MANIFEST_NAME).read_text() == "new"
    assert names(tmp_path) == ["a.bundle"]


def test_two_builds_of_one_target_do_not_mix(tmp_path):
    target = tmp_path / "a.bundle"
    with write_bundle(target) as writer:
        with pytest.raises(UsageError, match="another build"):
            write(target)
        write(tmp_path / "b.bundle")  # another target is nobody's business
        (writer.path / MANIFEST_NAME).write_text("first")
        writer.commit()
    assert (target / MANIFEST_NAME).read_text() == "first"
    assert names(tmp_path) == ["a.bundle", "b.bundle"]


def test_a_refused_build_touches_nothing_of_the_one_at_work(tmp_path):
    """Not even what lies beside its folder under a name like it."""
    target = tmp_path / "a.bundle"
    with write_bundle(target) as writer:
        beside = tmp_path / f"{writer.path.name}-more"
        beside.mkdir()
        before = names(tmp_path)
        with pytest.raises(UsageError, match="another build"):
            write(target, force=True)
        assert names(tmp_path) == before


def test_of_builds_at_once_one_wins_and_the_others_are_refused(tmp_path):
    target, start = tmp_path / "a.bundle", Barrier(8)
    done: list[str] = []

    def build(number: int) -> None:
        start.wait()
        try:
            with write_bundle(target) as writer:
                for _ in range(20):
                    (writer.path / "weights").write_text(str(number))
                (writer.path / MANIFEST_NAME).write_text(str(number))
                writer.commit()
        except UsageError as error:
            done.append("refused" if "exists" in str(error) or "another" in str(error) else "?")
        else:
            done.append(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(8)))
    assert len(done) == 8
    (winner,) = set(done) - {"refused"}
    assert (target / "weights").read_text() == winner
    assert names(tmp_path) == ["a.bundle"]


@pytest.mark.parametrize(
    ("number", "name", "error"),
    [
        (errno.ENOSPC, None, UnavailableError),
        (errno.EACCES, "models/model.safetensors", PairError),
        (errno.ENOENT, "models/model.safetensors", PairError),
        (errno.EMFILE, "models/model.safetensors", UnavailableError),
    ],
)
def test_an_error_of_another_file_is_not_the_output_s(tmp_path, number, name, error):
    path = [str(tmp_path / name)] if name else []
    with pytest.raises(error) as caught, write_bundle(tmp_path / "a.bundle"):
        raise OSError(number, os.strerror(number), *path)
    assert all(part in str(caught.value) for part in path)
    assert ("is full" in str(caught.value)) == (number == errno.ENOSPC)
    assert "cannot be written" not in str(caught.value)
    assert names(tmp_path) == []


def test_what_a_killed_build_left_is_cleared(tmp_path):
    target = tmp_path / "a.bundle"
    (tmp_path / ".a.bundle.partial-xyz").mkdir()
    (tmp_path / ".a.bundle.partial-xyz" / "weights").write_text("half")
    (tmp_path / ".a.bundle.lock").write_text("")
    write(target)
    assert names(tmp_path) == ["a.bundle"]


def test_a_replacement_that_was_killed_half_way_is_undone(tmp_path):
    """Between the two renames the old bundle has another name, and the target is not there."""
    target = tmp_path / "a.bundle"
    write(target, "old")
    target.rename(tmp_path / ".a.bundle.replaced")
    with pytest.raises(UsageError, match="exists"):
        write(target)
    assert (target / MANIFEST_NAME).read_text() == "old"
    write(target, force=True)
    assert names(tmp_path) == ["a.bundle"]


def test_a_replaced_bundle_that_was_not_removed_is_removed(tmp_path):
    target = tmp_path / "a.bundle"
    write(target, "old")
    (tmp_path / ".a.bundle.replaced").mkdir()
    write(target, force=True)
    assert names(tmp_path) == ["a.bundle"]
    assert (target / MANIFEST_NAME).read_text() == "new"


def test_a_link_to_a_bundle_stays_and_what_it_points_to_is_replaced(tmp_path):
    real, link = tmp_path / "disk" / "v1.bundle", tmp_path / "current"
    write(real, "old")
    link.symlink_to(real)
    with pytest.raises(UsageError, match="exists"):
        write(link)
    for content in ("new", "newer"):
        write(link, content, force=True)
        assert link.is_symlink()
        assert (real / MANIFEST_NAME).read_text() == content
    assert names(tmp_path) == ["current", "disk"]
    assert names(real.parent) == ["v1.bundle"]


def test_a_link_to_nothing_gets_its_bundle_where_it_points(tmp_path):
    (tmp_path / "current").symlink_to(tmp_path / "later")
    write(tmp_path / "current")
    assert (tmp_path / "later" / MANIFEST_NAME).read_text() == "new"
    assert names(tmp_path) == ["current", "later"]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path):
    """Its own leftovers are cleared, and those of names that it would match are not."""
    (tmp_path / ".a[1].partial-xyz").mkdir()
    (tmp_path / ".a1.partial-xyz").mkdir()
    write(tmp_path / "a[1]")
    assert names(tmp_path) == [".a1.partial-xyz", "a[1]"]


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_during_a_build_is_not_lost(tmp_path, force):
    target = tmp_path / "a.bundle"
    with pytest.raises(UsageError, match="exists"), write_bundle(target, force=force) as writer:  # noqa: PT012
        (writer.path / MANIFEST_NAME).write_text("new")
        target.mkdir()
        (target / "holiday.jpg").write_text("dear")
        writer.commit()
    assert (target / "holiday.jpg").read_text() == "dear"
    assert names(tmp_path) == ["a.bundle"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_rename_that_fails_half_way_gives_the_old_bundle_its_name_back(
    tmp_path, monkeypatch, error
):
    target = tmp_path / "a.bundle"
    write(target, "old")
    rename = Path.rename

    def fails(path, new):
        if ".partial-" in path.name:
            raise error
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(error):
        write(target, force=True)
    assert (target / MANIFEST_NAME).read_text() == "old"
    assert names(tmp_path) == ["a.bundle"]


def test_the_writer_needs_no_fcntl():
    """Which Windows does not have."""
    code = "import sys; sys.modules['fcntl'] = None; import c2c_export.building.bundle_writer"
    subprocess.run([sys.executable, "-c", code], check=True)
