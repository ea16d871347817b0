"""Errors of the operating system: said as what they are, with their own path, remedy and exit code."""

from __future__ import annotations

import errno
import os

import pytest

from c2c_export.system_errors import error_from_system, missing, naming_system_errors
from c2c_runtime.errors import C2CError, PairError, UnavailableError, UsageError


def os_error(number: int, path: object = None) -> OSError:
    return OSError(number, os.strerror(number), *([str(path)] if path else []))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("name", [None, "b", ".b.partial-x/graphs/w", "elsewhere/tmp"])
def test_a_full_disk_is_named_by_its_folder(tmp_path, number, name):
    path = tmp_path / name if name else None
    named = error_from_system(os_error(number, path), output=tmp_path / "b")
    assert isinstance(named, UnavailableError)
    assert f"the disk of {tmp_path} is full" in named.cause
    assert "MiB free" in named.cause
    assert "free some space" in named.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("name", ["out/b", "out/.b.partial-x/w", "out/.b.lock", "out"])
def test_an_output_that_cannot_be_written(tmp_path, number, name):
    named = error_from_system(os_error(number, tmp_path / name), output=tmp_path / "out" / "b")
    assert isinstance(named, UnavailableError)
    assert f"{tmp_path / 'out'} cannot be written to" in named.cause


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, 3, "cannot be opened: Permission denied"),
        (errno.EIO, 3, "cannot be opened: Input/output error"),
        (errno.ENOENT, 3, "is missing"),
        (errno.EMFILE, 5, "too many files are open"),
        (errno.ENOMEM, 5, "not enough memory"),
    ],
)
@pytest.mark.parametrize("folder", ["", "models"])
def test_a_file_that_was_given_is_not_the_output(tmp_path, number, code, words, folder):
    """Not even where it lies beside the output."""
    path = tmp_path / folder / "model.safetensors"
    output = tmp_path / "b"
    with pytest.raises(C2CError) as caught, naming_system_errors(PairError, output):
        raise os_error(number, path)
    assert caught.value.exit_code == code
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "->" in str(caught.value)
    assert "give an -o" not in str(caught.value)


def test_a_link_to_nothing_says_so(tmp_path):
    link = tmp_path / "weights"
    link.symlink_to(tmp_path / "blob")
    assert missing(link) == f"{link} is a link to {tmp_path / 'blob'}, which is missing"
    with pytest.raises(PairError, match="is a link to"), naming_system_errors(PairError):
        link.read_bytes()


@pytest.mark.parametrize("name", ["out/b", "out"])
def test_an_output_whose_folder_is_a_file(tmp_path, name):
    named = error_from_system(
        os_error(errno.ENOTDIR, tmp_path / name), output=tmp_path / "out" / "b"
    )
    assert isinstance(named, UsageError)


@pytest.mark.parametrize("error", [OSError("said by a library"), os_error(errno.ECONNREFUSED)])
def test_what_says_nothing_of_files_stays_as_it_is(tmp_path, error):
    with (
        pytest.raises(OSError, match=str(error.args[-1])),
        naming_system_errors(PairError, tmp_path / "b"),
    ):
        raise error
