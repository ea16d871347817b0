"""The command line as a whole: help, exit codes of what nobody foresaw, tracebacks on demand."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from click.testing import CliRunner

from c2c_export.cli import cli as group

COMMANDS = group.list_commands(None)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name):
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Examples:" in result.output
    assert f"c2c-export {name}" in result.output


def test_help_lists_every_command_and_the_exit_codes(cli):
    called = cli("--help")
    assert called.code == 0
    assert all(name in called.out for name in COMMANDS)
    assert "4 verification failed" in " ".join(called.out.split())


def raising(error):
    def main(*_, **__):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ZeroDivisionError("oops"), 1, "this is a bug of c2c-export"),
        (KeyboardInterrupt(), 130, "nothing was left behind"),
        (MemoryError(), 5, "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 5, "too many files are open"),
        (
            OSError(errno.EACCES, "Permission denied", "report.html"),
            3,
            "report.html cannot be opened",
        ),
        (OSError("said by a library"), 1, "this is a bug of c2c-export"),
    ],
)
def test_what_nobody_foresaw(cli, monkeypatch, error, code, says):
    monkeypatch.setattr(group, "main", raising(error))
    called = cli("inspect", "bundle")
    assert called.code == code
    assert says in called.err
    assert "Traceback" not in called.err
    assert "Traceback" in cli("--debug", "inspect", "bundle").err


def test_a_reader_that_leaves_is_no_error():
    """As in `c2c-export ... | head -1`."""
    code = (
        "import sys; from c2c_export import cli\n"
        "cli.cli.main = lambda *a, **k: [print('x' * 999, flush=True) for _ in range(9999)]\n"
        "cli.main([])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_an_unknown_command_or_option_is_a_usage_error(cli):
    assert cli("compile").code == 2
    assert cli("run", "bundle", "--nonsense").code == 2
    assert cli("run", "bundle", "--prompt-ids", "1,x").code == 2
    assert cli("run", "bundle", "--prompt-ids", "1", "--sections", "1").code == 2


WITHOUT_TORCH = """
import sys
from c2c_export.cli import main
sys.modules["torch"] = None  # importing it fails from here on
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--pair", "nope+nada", "--fuser", "nowhere", "-o", "b"], 3, "there is no directory nope"),
        (["--pair", "a+b", "--precision", "fp17", "-o", "b"], 2, "'fp17' is none of"),
        (["--pair", "a+b", "--target", "toaster", "-o", "b"], 2, "no target toaster"),
        (["--pair", "a+b", "--max-seq-len", "4", "-o", "b"], 2, "at least 16 tokens"),
        (["--pair", "a+b", "-o", "."], 2, "exists"),
        (["--pair", "missing.yaml", "-o", "b"], 3, "missing.yaml"),
    ],
)
def test_what_can_be_refused_is_refused_before_pytorch_is_loaded(tmp_path, args, code, words):
    called = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "build", *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert called.returncode == code, called.stderr
    assert words in called.stderr
    assert list(tmp_path.iterdir()) == []
