"""New engines into a bundle: its manifest with them, and the old ones out of the way.

The manifest is replaced in one step, after the new engines are in place and before the old ones go:
at any moment the bundle opens, with one set or the other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from c2c_engines.bundle_engines import (
    ENGINES,
    PARTIAL,
    BuiltEngine,
    EngineOptions,
    build_engines,
    not_writable,
)
from c2c_runtime.bundle.bundle import (
    MANIFEST_NAME,
    Bundle,
    dump_manifest,
    file_entry,
    read_manifest,
)
from c2c_runtime.bundle.manifest import EngineSpec, Manifest
from c2c_runtime.errors import UnavailableError, UsageError
from c2c_runtime.progress import OnProgress, unheard

LOCK = ".engines.lock"


def add_engines(
    path: Path,
    options: EngineOptions,
    on_progress: OnProgress = unheard,
) -> tuple[BuiltEngine, ...]:
    """Build the engines of the bundle at ``path`` and put them into it.

    Engines of the same backend and target are replaced. The bundle is as it was if anything fails or
    interrupts. Raises ``BundleError`` if the bundle is damaged, and what ``build_engines`` raises.
    """
    bundle = Bundle.open(path, with_engines=False)  # this is the remedy for damaged engines
    bundle.check_hashes()
    root = bundle.root.resolve()
    with _locked(root):
        _remove_unlisted(root)  # a killed build's leavings, before this one needs their space
        try:
            built = build_engines(root, read_manifest(root), options, on_progress)
            engines = [engine.spec for engine in built]
            manifest = with_engines(root, read_manifest(root), engines)
            _replace_manifest(root, manifest)
        finally:
            _remove_unlisted(root)
    return built


def with_engines(root: Path, manifest: Manifest, engines: Sequence[EngineSpec]) -> Manifest:
    """``manifest`` with ``engines``, whose files are in the bundle at ``root``, and their file entries.

    They replace those of the same backend and target.
    """
    replaced = {(engine.backend, engine.target) for engine in engines}
    kept = [e for e in manifest.engines if (e.backend, e.target) not in replaced]
    gone = {_folder(e.path) for e in manifest.engines} - {_folder(e.path) for e in kept}
    files = {name: entry for name, entry in manifest.files.items() if _folder(name) not in gone}
    for folder in sorted({_folder(engine.path) for engine in engines}):
        for file in sorted((root / folder).iterdir()):
            name = file.relative_to(root).as_posix()
            files[name] = file_entry(file)
    tools = manifest.tools | {engine.backend: engine.backend_version for engine in engines}
    return replace(manifest, engines=(*kept, *engines), files=files, tools=tools)


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _replace_manifest(root: Path, manifest: Manifest) -> None:
    path = root / MANIFEST_NAME
    partial = root / f".{MANIFEST_NAME}.partial"
    try:
        with partial.open("wb") as file:
            file.write(dump_manifest(manifest))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnavailableError(
            f"{path} cannot be written: {error}", "free some space, or make the bundle writable"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _remove_unlisted(root: Path) -> None:
    """Remove engines that the manifest, as it now is, does not name, and folders of builds."""
    listed = {_folder(engine.path) for engine in read_manifest(root).engines}
    for folder in (*(root / ENGINES).glob("*"), *root.glob(f"{PARTIAL}*")):
        if folder.relative_to(root).as_posix() not in listed:
            shutil.rmtree(folder, ignore_errors=True)
    if not listed:
        shutil.rmtree(root / ENGINES, ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """The bundle for this build alone. Raises ``UsageError`` while another builds into it."""
    path = root / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"another build is writing engines into {root}", "wait for it to end"
        ) from None
    except OSError as error:
        raise not_writable(root, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes it when it is released, and not before
            path.unlink()
        lock.release()
