"""Writing a bundle so that an interruption leaves the old one, or none, and never half of one.

Everything is written to a hidden directory beside the target, which is renamed when complete. A lock
beside the target is held while its writer lives, so that whoever holds it finds leftovers only.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from c2c_export.system_errors import naming_system_errors
from c2c_runtime.bundle.bundle import MANIFEST_NAME, dump_manifest, file_entry
from c2c_runtime.bundle.manifest import FileEntry, Manifest
from c2c_runtime.errors import PairError, UsageError

_PARTIAL = ".partial-"
_REPLACED = ".replaced"


class BundleWriter:
    """The directory being written (``path``) and the name it will get (``target``)."""

    def __init__(self, target: Path, path: Path, *, force: bool = False) -> None:
        self.target = target
        self.path = path
        self._force = force

    def files(self, known: Mapping[Path, FileEntry]) -> dict[str, FileEntry]:
        """Size and sha256 of every file written so far, by its path in the bundle. ``known``: what is
        known of some already."""
        return {
            path.relative_to(self.path).as_posix(): known.get(path) or file_entry(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name != MANIFEST_NAME
        }

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, in place of one that was written before."""
        (self.path / MANIFEST_NAME).write_bytes(dump_manifest(manifest))

    def commit(self) -> None:
        """Give the directory its name. An old bundle stays in place until this moment.

        Raises ``UsageError`` if something that may not be replaced appeared there meanwhile.
        """
        check_target(self.target, force=self._force)
        replaced = _replaced_name(self.target)
        if self.target.exists():
            self.target.rename(replaced)
        try:
            self.path.rename(self.target)
        except BaseException:
            if replaced.exists() and not self.target.exists():
                replaced.rename(self.target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def write_bundle(target: Path, *, force: bool = False) -> Iterator[BundleWriter]:
    """A writer for ``target``; what is not committed is removed on the way out.

    Raises ``UsageError`` if the target exists and ``force`` is off, or if it is no bundle and so is
    never replaced, or while another build writes it; ``UnavailableError`` when the disk is full.
    """
    target = checked_target(target, force=force)
    with naming_system_errors(PairError, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            _recover(target)
            check_target(target, force=force)
            path = Path(tempfile.mkdtemp(prefix=f".{target.name}{_PARTIAL}", dir=target.parent))
            try:
                path.chmod(0o755)  # mkdtemp makes it private; a bundle is an ordinary directory
                yield BundleWriter(target, path, force=force)
            finally:
                shutil.rmtree(path, ignore_errors=True)


def checked_target(target: Path, *, force: bool) -> Path:
    """Where a bundle for ``target`` is written. Raises ``UsageError`` if none may be, before any work."""
    # A link keeps pointing where it does: what it points to is replaced.
    target = target.resolve() if target.is_symlink() else target.absolute()
    with naming_system_errors(PairError, target):
        check_target(target, force=force)
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """The target for this build alone. Raises ``UsageError`` while another writes it."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"another build is writing {target}", "wait for it to end, or give another -o"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes it when it is released, and not before
            Path(lock.lock_file).unlink()
        lock.release()


def check_target(target: Path, *, force: bool) -> None:
    """Raise ``UsageError`` unless a bundle may be written to ``target``."""
    if target.exists() or target.is_symlink():
        is_bundle = (target / MANIFEST_NAME).is_file()
        is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if not force:
            raise UsageError(
                f"{target} exists", "give another -o, or --force to replace the bundle"
            )
        if not is_bundle and not is_empty:
            raise UsageError(
                f"{target} exists and is no bundle, so --force does not replace it",
                "give another -o, or remove it yourself",
            )


def _recover(target: Path) -> None:
    """Clear what killed builds of this target left: their directories, and a half-done replacement."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    replaced = _replaced_name(target)
    if replaced.exists():
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)


def _replaced_name(target: Path) -> Path:
    """Where the old bundle lies for the moment in which the new one takes its name."""
    return target.with_name(f".{target.name}{_REPLACED}")
