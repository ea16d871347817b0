"""Stages that were run before: what they made is kept, by the hash of all that they read.

An entry is a folder of files and what was said of them. It appears in one step, complete, under the hash
of what its stage read, so two builds on one cache do not disturb each other: the second to finish finds
the entry there. Every file is hashed before it is used: a damaged entry is as good as none.

Files are copied, not linked: onnx and onnx-ir refuse weights in a file that has several names.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from c2c_runtime.bundle.bundle import file_entry
from c2c_runtime.bundle.manifest import FileEntry
from c2c_runtime.errors import UsageError

DEFAULT_MAX_GIB = 20.0
_DIRECTORY = "C2C_CACHE_DIR"
_MAX_GIB = "C2C_CACHE_GIB"
_ENTRIES = "stages"
_ENTRY = "entry.json"
_PARTIAL = ".partial-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Entry:
    """What a stage made: ``files`` with their sizes and hashes, and ``said``, as JSON."""

    files: Mapping[str, FileEntry]
    said: Any


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

    def find(self, key: str, folder: Path) -> Entry | None:
        """The entry of ``key``, its files put into ``folder``; None, and nothing put there, if there is
        none. One that is damaged is removed. Raises OSError if ``folder`` has no room."""
        directory = self._place(key)
        if not directory.exists():
            return None
        placed: list[Path] = []
        try:
            entry = _read_entry(directory / _ENTRY)
            for name, file in entry.files.items():
                placed.append(folder / name)
                _copy(directory / name, folder / name)
                _check(folder / name, file)
            os.utime(directory / _ENTRY)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            for path in placed:
                path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise  # where the bundle is written: the entry is sound
            shutil.rmtree(directory, ignore_errors=True)
            return None
        return entry

    def keep(self, key: str, files: Mapping[Path, FileEntry], said: Any) -> None:
        """Keep ``files``, which stay where they are, and ``said`` under ``key``. It does not matter if
        another build was first.

        Raises OSError if there is no room for them.
        """
        directory = self._place(key)
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=directory.parent))
        try:
            for path in files:
                shutil.copyfile(path, partial / path.name)
            plain = {path.name: asdict(file) for path, file in files.items()}
            text = json.dumps({"files": plain, "said": said})
            (partial / _ENTRY).write_text(text, encoding="utf-8")
            with contextlib.suppress(OSError):  # there is one
                partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.make_room(besides=key)

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


def _copy(source: Path, target: Path) -> None:
    """An error names the target: shutil names the source, also where the target's disk is full."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _read_entry(path: Path) -> Entry:
    data = json.loads(path.read_text(encoding="utf-8"))
    files = {Path(name).name: FileEntry(**entry) for name, entry in data["files"].items()}
    return Entry(files, data["said"])


def _check(path: Path, file: FileEntry) -> None:
    """ValueError if a file is not what was kept."""
    if path.stat().st_size != file.size_bytes or file_entry(path) != file:
        raise ValueError(f"{path} is not what was kept")
