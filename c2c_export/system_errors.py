"""Errors of the operating system -> those of ``c2c_runtime.errors``. The one place that says what they mean.

Which file an error is about decides: the disk under an output is the machine's, a file that was given
is an input. What has no error number, or says nothing of files, is left as it is.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from c2c_runtime.errors import C2CError, InputError, UnavailableError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)
# What numpy says of a full disk, without a number.
_SHORT_WRITE = re.compile(r"^problem writing element|^\d+ requested and \d+ written")
_EXPORT_PACKAGES = {
    *(
        "accelerate",
        "gguf",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "safetensors",
        "torch",
        "transformers",
    ),
    "yaml",
}
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


@contextmanager
def naming_system_errors(
    kind: type[InputError] = InputError, output: Path | None = None
) -> Iterator[None]:
    """Raise an ``OSError`` of this block as what it means to a user.

    ``kind``: what a file that cannot be read is. ``output``: where this block writes; its hidden
    neighbours ``.NAME.*`` belong to it.
    """
    try:
        yield
    except OSError as error:
        named = error_from_system(error, kind, output)
        if named is None:
            raise
        raise named from error


def error_from_machine(error: Exception) -> C2CError | None:
    """What an error that nobody foresaw says of this machine, or of a file that was given; None where it
    says nothing of them."""
    if isinstance(error, OSError):
        return error_from_system(error)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in _EXPORT_PACKAGES:
        return UnavailableError(
            f"this needs a package that is not installed or does not load: {error}",
            'pip install "c2c-export[export]"; run, verify, inspect and doctor work without it',
        )
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return UnavailableError(
            f"no more threads can be started: {error}",
            "allow more, as with `ulimit -u`, or ask for fewer with --threads",
        )
    if isinstance(error, RecursionError) and "JSON" in str(error):
        return InputError.of(
            "a JSON file that was given is nested too deeply", "write it as its format says"
        )
    return None


def error_from_system(
    error: OSError, kind: type[InputError] = InputError, output: Path | None = None
) -> C2CError | None:
    """What an ``OSError`` means; None where it says nothing of this machine or of a file."""
    path = _path_of(error)
    if error.errno in _TOO_MANY:
        return UnavailableError(
            f"too many files are open: {error}", "allow more, as with `ulimit -n 4096`"
        )
    if error.errno == errno.ENOMEM:
        return UnavailableError(
            f"not enough memory: {error}", "close other programs or use a smaller pair"
        )
    if error.errno in _FULL or _SHORT_WRITE.search(str(error)):
        is_output = output is not None and (path is None or _is_part(path, output))
        return _full(error, output if is_output else path)
    if path is None:
        if error.errno == errno.EIO:
            return UnavailableError(f"a disk fails: {error}", "check the disks that are in use")
        return None
    if output is not None and _is_part(path, output):
        if error.errno in _REFUSED:
            return UnavailableError(
                f"{output.parent} cannot be written to: {error}", "give an -o that you may write"
            )
        if error.errno in _NO_PLACE:
            return UsageError(
                f"nothing can be written to {output}: {error.strerror}",
                "give an -o whose folder can be made",
            )
        return None
    if error.errno is None:
        return None
    if error.errno == errno.ENOENT:
        return kind.of(missing(path), "check the path, or download the file again")
    remedy = "check the path, and that this user may read it"
    return kind.of(f"{path} cannot be opened: {error.strerror}", remedy)


def missing(path: Path) -> str:
    """That a file is missing, in words; a link to nothing is said to be one."""
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which is missing"
    return f"{path} is missing"


def _full(error: OSError, path: Path | None) -> UnavailableError:
    if path is None:
        return UnavailableError(f"a disk is full: {error}", "free some space")
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return UnavailableError(
        f"the disk of {folder} is full ({free / 2**20:.0f} MiB free): {error}",
        "free some space or give a place on another disk; nothing was left behind",
    )


def _path_of(error: OSError) -> Path | None:
    name = error.filename
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None


def _is_part(path: Path, output: Path) -> bool:
    """Whether a path is the output, inside it, hidden beside it while it is written, or above it."""
    path, output = path.absolute(), output.absolute()
    if output.is_relative_to(path) or path.is_relative_to(output):
        return True
    inside = path.relative_to(output.parent).parts if path.is_relative_to(output.parent) else ()
    return bool(inside) and inside[0].startswith(f".{output.name}.")
