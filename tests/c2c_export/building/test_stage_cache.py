"""The cache of stages: entries are whole or none, bounded, and shared by builds at once."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import dataclass

import pytest

from c2c_export.building.stage_cache import StageCache
from c2c_export.building.stage_keys import Digests, stage_key
from c2c_runtime.bundle.bundle import file_entry, sha256_of

KEY = "ab" + "0" * 62


@pytest.fixture
def cache(tmp_path):
    return StageCache(tmp_path / "cache", 2**30)


def made(folder, name="graph", content=b"weights"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return {folder / name: file_entry(folder / name)}


@pytest.fixture
def bundle(tmp_path):
    """A new folder each time: a bundle that is being written."""
    numbers = itertools.count()

    def new():
        folder = tmp_path / f"bundle{next(numbers)}"
        folder.mkdir()
        return folder

    return new


def numbered(number):
    return f"{number:02x}" + "1" * 62


def test_what_was_kept_is_found_and_placed(cache, tmp_path, bundle):
    folder = bundle()
    assert cache.find(KEY, folder) is None
    cache.keep(KEY, made(tmp_path / "made"), {"nodes": 3})
    entry = cache.find(KEY, folder)
    assert entry.said == {"nodes": 3}
    assert (folder / "graph").read_bytes() == b"weights"
    assert entry.files["graph"].size_bytes == 7
    assert cache.find("cd" + KEY[2:], bundle()) is None


def test_a_files_only_name_is_its_own(cache, tmp_path, bundle):
    """onnx and onnx-ir do not load weights from a file that has several."""
    files = made(tmp_path / "made")
    (path,) = files
    cache.keep(KEY, files, None)
    folder = bundle()
    cache.find(KEY, folder)
    assert path.stat().st_nlink == (folder / "graph").stat().st_nlink == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "graph").unlink(),
        lambda entry: (entry / "graph").write_bytes(b"weightS"),
        lambda entry: (entry / "graph").write_bytes(b"weight"),
        lambda entry: (entry / "entry.json").write_bytes(b"{"),
        lambda entry: (entry / "entry.json").write_text('{"files": [], "said": 1}'),
        lambda entry: (entry / "entry.json").write_text('{"files": {"graph": {}}, "said": 1}'),
        lambda entry: (entry / "entry.json").unlink(),
    ],
)
def test_a_damaged_entry_is_none_and_can_be_made_again(cache, tmp_path, damage, bundle):
    cache.keep(KEY, made(tmp_path / "made"), "first")
    damage(cache.root / "stages" / KEY[:2] / KEY)
    folder = bundle()
    assert cache.find(KEY, folder) is None
    assert list(folder.iterdir()) == []
    cache.keep(KEY, made(tmp_path / "again"), "second")
    assert cache.find(KEY, folder).said == "second"


def test_the_longest_unused_go_first(tmp_path, bundle):
    cache = StageCache(tmp_path / "cache", 3000)
    for number in range(3):
        cache.keep(numbered(number), made(tmp_path / "made", content=bytes(800)), number)
        place = cache.root / "stages" / numbered(number)[:2] / numbered(number)
        os.utime(place / "entry.json", (number, number))
    assert cache.find(numbered(0), bundle()) is not None  # now it is the last that was used
    cache.keep(numbered(3), made(tmp_path / "made", content=bytes(900)), 3)
    assert [cache.find(numbered(n), bundle()) is not None for n in range(4)] == [
        True,
        False,
        True,
        True,
    ]
    assert cache.size_bytes() <= 3000


def test_an_entry_larger_than_the_cache_is_all_that_it_holds(tmp_path, bundle):
    cache = StageCache(tmp_path / "cache", 10)
    cache.keep(numbered(1), made(tmp_path / "made", content=bytes(100)), None)
    cache.keep(numbered(2), made(tmp_path / "made", content=bytes(100)), None)
    assert cache.find(numbered(1), bundle()) is None
    assert cache.find(numbered(2), bundle()) is not None


def test_builds_at_once_do_not_disturb_each_other(tmp_path):
    cache = StageCache(tmp_path / "cache", 4000)
    failures = []

    def build(worker):
        try:
            folder = tmp_path / f"w{worker}"
            folder.mkdir()
            for number in range(40):
                key = numbered(number % 5)
                content = bytes([number % 5]) * 900
                (folder / "graph").unlink(missing_ok=True)
                if cache.find(key, folder) is None:
                    cache.keep(key, made(folder, content=content), None)
                assert (folder / "graph").read_bytes() == content
        except Exception as error:  # noqa: BLE001 -- a thread cannot fail a test by itself
            failures.append(error)

    threads = [threading.Thread(target=build, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not list((tmp_path / "cache").rglob(".partial-*"))


@dataclass(frozen=True)
class Options:
    dialect: str
    positions: int | None


def test_keys_differ_by_whatever_is_read():
    options = Options("ort", 128)
    key = stage_key("receiver", options=options, files={"a": "1", "b": "2"})
    assert key == stage_key("receiver", files={"b": "2", "a": "1"}, options=Options("ort", 128))
    assert key != stage_key("sharer1", options=options, files={"a": "1", "b": "2"})
    assert key != stage_key("receiver", options=Options("ort", None), files={"a": "1", "b": "2"})
    assert key != stage_key("receiver", options=options, files={"a": "1", "b": "3"})


def test_a_file_is_hashed_again_when_it_changed(tmp_path, monkeypatch):
    hashed = []
    real = sha256_of
    monkeypatch.setattr(
        "c2c_export.building.stage_keys.sha256_of", lambda path: hashed.append(path) or real(path)
    )
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = Digests(tmp_path / "cache").of(path)
    assert Digests(tmp_path / "cache").of(path) == first
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert Digests(tmp_path / "cache").of(path) != first
    assert len(hashed) == 2


def test_the_command_says_what_is_kept_and_clears_it(cli, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("C2C_CACHE_DIR", str(cache.root))
    cache.keep(KEY, made(tmp_path / "made", content=bytes(1000)), None)
    shown = cli("cache", "size", "--json").json
    assert shown["entries"] == 1
    assert 1000 < shown["size_bytes"] < 1300
    assert shown["directory"] == str(cache.root)
    assert "in 1 entries" in cli("cache", "size").out
    assert cli("cache", "clear").code == 0
    assert cli("cache", "size", "--json").json["size_bytes"] == 0


def test_a_limit_that_is_no_number_is_refused(cli, monkeypatch):
    monkeypatch.setenv("C2C_CACHE_GIB", "much")
    called = cli("cache", "size")
    assert called.code == 2
    assert "C2C_CACHE_GIB=much" in called.err
