"""Stages that were run before: what they made is kept, by the hash of all that they read.

An entry is a folder of files and what was said of them. It appears in one step, complete, under the hash
of what its stage read, so two builds on one cache do not disturb each other: the second to finish finds
the entry there. Files are linked where the disk can, so that an entry and the bundle made from it take
their room once. Every file is hashed before it is used: a damaged entry is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from c2c_runtime.bundle.bundle import sha256_of
from c2c_runtime.bundle.manifest import FileEntry
from c2c_runtime.errors import UsageError

DEFAULT_MAX_GIB = 20.0
_DIRECTORY = "C2C_CACHE_DIR"
_MAX_GIB = "C2C_CACHE_GIB"
_ENTRIES = "stages"
_ENTRY = "entry.json"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Entry:
    """What a stage made: ``files`` in ``directory`` with their sizes and hashes, and ``said``, as JSON."""

    directory: Path
    files: Mapping[str, FileEntry]
    said: Any

    def place(self, name: str, target: Path) -> None:
        """Put a file where a bundle wants it."""
        link_or_copy(self.directory / name, target)


class StageCache:
    """Entries under ``root``, at most ``max_bytes`` of them: the longest unused go first.

    Safe to use from several processes at once.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes

    @classmethod
    def of_user(cls) -> StageCache:
        """The platform's cache folder, or where C2C_CACHE_DIR says; at most C2C_CACHE_GIB (20).

        Raises ``UsageError`` for a limit that is no number.
        """
        root = os.environ.get(_DIRECTORY) or platformdirs.user_cache_dir("c2c-export", False)
        text = os.environ.get(_MAX_GIB, str(DEFAULT_MAX_GIB))
        try:
            max_bytes = int(float(text) * 2**30)
        except (ValueError, OverflowError) as error:
            raise UsageError(
                f"{_MAX_GIB}={text} is no number of GiB", "give one such as 20"
            ) from error
        return cls(Path(root).expanduser().absolute(), max_bytes)

    def find(self, key: str) -> Entry | None:
        """The entry of ``key``, whole; None if there is none. One that is damaged is removed."""
        directory = self._place(key)
        if not directory.exists():
            return None
        try:
            data = json.loads((directory / _ENTRY).read_text(encoding="utf-8"))
            files = {name: FileEntry(**entry) for name, entry in data["files"].items()}
            is_whole = all(_is(directory / name, entry) for name, entry in files.items())
            said = data["said"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
        if not is_whole:
            shutil.rmtree(directory, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(directory / _ENTRY)
        return Entry(directory, files, said)

    def keep(self, key: str, files: Mapping[str, Path], said: Any) -> Entry:
        """Keep ``files`` and ``said`` under ``key``; returns the entry, which another build may have made.

        Raises OSError if there is no room for them.
        """
        directory = self._place(key)
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=directory.parent))
        try:
            entries = {}
            for name, path in files.items():
                link_or_copy(path, partial / name)
                entries[name] = FileEntry(path.stat().st_size, sha256_of(path))
            plain = {
                name: {"size_bytes": e.size_bytes, "sha256": e.sha256}
                for name, e in entries.items()
            }
            text = json.dumps({"files": plain, "said": said})
            (partial / _ENTRY).write_text(text, encoding="utf-8")
            with contextlib.suppress(OSError):  # another build was first: what it made is the same
                partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.make_room(besides=key)
        return Entry(directory, entries, said)

    def size_bytes(self) -> int:
        """Of all entries."""
        return sum(size for _, size, _ in self._entries())

    def num_entries(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._entries())

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    def make_room(self, besides: str | None = None) -> None:
        """Remove the longest unused entries until the rest fits, but never that of ``besides``."""
        entries = sorted(self._entries(), key=lambda entry: entry[0])
        size = sum(num_bytes for _, num_bytes, _ in entries)
        for _, num_bytes, directory in entries:
            if size <= self.max_bytes:
                return
            if besides is None or directory != self._place(besides):
                shutil.rmtree(directory, ignore_errors=True)
                size -= num_bytes

    def _place(self, key: str) -> Path:
        return self.root / _ENTRIES / key[:2] / key

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last used, its bytes and its folder."""
        for marker in (self.root / _ENTRIES).glob(f"*/*/{_ENTRY}"):
            try:
                used = marker.stat().st_mtime
                size = sum(path.stat().st_size for path in marker.parent.iterdir())
            except OSError:
                continue  # another build is making room
            yield used, size, marker.parent


def link_or_copy(source: Path, target: Path) -> None:
    """``target`` becomes another name of ``source``, or a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is(path: Path, entry: FileEntry) -> bool:
    return path.stat().st_size == entry.size_bytes and sha256_of(path) == entry.sha256
