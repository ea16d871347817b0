"""The key of a stage: a hash of all that it reads, and of the code and the libraries that it runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import c2c_export
import c2c_runtime
from c2c_export.reading.weight_headers import weight_files
from c2c_runtime.bundle.bundle import sha256_of

# What a graph's bytes depend on, beside our own code.
_LIBRARIES = (
    "gguf",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "torch",
    "transformers",
)


class Digests:
    """sha256 of files, remembered in ``root`` by path, size, time and inode: a checkpoint of gigabytes is
    read once, and not again until it changes. ``root`` None: nothing is read, and a file is what its
    path, size and time say."""

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else root / "digests"

    def of(self, path: Path) -> str:
        """What stands for a file's content."""
        path = path.resolve()
        status = path.stat()
        known = [status.st_size, status.st_mtime_ns, status.st_ino]
        if self._root is None:
            return f"{path} {known}"
        note = self._root / f"{_sha256(str(path).encode('utf-8', 'surrogateescape'))}.json"
        try:
            noted, digest = json.loads(note.read_text(encoding="utf-8"))
            if noted == known and isinstance(digest, str):
                return digest
        except (OSError, ValueError, TypeError):
            pass  # not noted yet, or damaged
        digest = sha256_of(path)
        with suppress(OSError):  # no room, or not ours to write: then it is hashed again
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps([known, digest]), encoding="utf-8")
            partial.replace(note)
        return digest

    def of_model(self, directory: Path, gguf_file: str | None) -> dict[str, str]:
        """Of everything of a checkpoint that its graph is made from: config and weights."""
        if gguf_file is not None:
            return {gguf_file: self.of(directory / gguf_file)}
        return self._of_files(directory, [directory / "config.json", *weight_files(directory)])

    def of_folder(self, directory: Path) -> dict[str, str]:
        """Of every file of a folder, such as a Fuser's."""
        return self._of_files(directory, (p for p in directory.rglob("*") if p.is_file()))

    def _of_files(self, directory: Path, paths: Iterable[Path]) -> dict[str, str]:
        return {path.relative_to(directory).as_posix(): self.of(path) for path in sorted(paths)}


def stage_key(stage: str, **read: Any) -> str:
    """The key of ``stage`` that reads ``read``: plain values, dataclasses and collections of them."""
    parts = {"stage": stage, "tools": _tools(), "read": read}
    return _sha256(json.dumps(parts, sort_keys=True, default=_plain).encode("utf-8"))


@cache
def _tools() -> dict[str, str]:
    """Versions of the libraries, and a hash of our code: it says more than our version does."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    code = hashlib.sha256()
    for package in (c2c_export, c2c_runtime):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            code.update(f"{path.relative_to(root).as_posix()}\n".encode())
            code.update(path.read_bytes())
    return versions | {"c2c-export": c2c_export.__version__, "code": code.hexdigest()}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
