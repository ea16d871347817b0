"""The command line as a whole: help, exit codes of what nobody foresaw, tracebacks on demand."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from c2c_export.cli import cli as group
from c2c_export.commands.run import read_messages
from c2c_runtime.errors import UsageError

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
        (OSError("problem writing element 1024 to file"), 5, "a disk is full"),
        (OSError("4096 requested and 512 written"), 5, "a disk is full"),
        (RuntimeError("can't start new thread"), 5, "no more threads"),
        (
            RecursionError("maximum recursion depth exceeded while decoding a JSON array"),
            3,
            "nested",
        ),
        (RecursionError("maximum recursion depth exceeded"), 1, "this is a bug of c2c-export"),
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


@pytest.mark.parametrize("args", ["--help", "run --help", "pairs --json", "pairs"])
def test_a_reader_that_is_gone_is_no_error(args):
    """As in `c2c-export ... | true`: click alone would end with 1."""
    reading, writing = os.pipe()
    os.close(reading)
    called = subprocess.run(
        [sys.executable, "-m", "c2c_export.cli", *args.split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (called.returncode, called.stderr) == (0, "")


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        ("doctor --json >&-", 2, "stdout is closed"),
        ("pairs --json 2>&-", 0, ""),
        ("pairs --json >/dev/full", 5, "disk is full"),
        ("run b --help >/dev/full", 5, "disk is full"),
    ],
)
def test_streams_that_are_closed_or_full(redirected, code, says, tmp_path):
    command = f"{sys.executable} -m c2c_export.cli {redirected}"
    called = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert called.returncode == code, called.stderr
    assert says in called.stderr
    assert "bug of c2c-export" not in called.stderr


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


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "0", "1e400", "x"])
@pytest.mark.parametrize(
    "command",
    [
        "build --pair a+b -o b --max-build-memory",
        "build-engines b --backend tensorrt --max-build-memory",
        "build-engines b --backend tensorrt --workspace",
        "init-fuser --receiver r --sharer s -o f --open-share",
        "init-fuser --receiver r --sharer s -o f --scale",
    ],
)
def test_a_number_that_is_none_is_a_usage_error(cli, command, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    is_share = command.endswith(("--open-share", "--scale"))
    if is_share and number in ("-1", "0"):
        return  # a scale may be negative, and a share nothing
    called = cli(*command.split(), number)
    assert called.code == 2, called.err
    assert "Invalid value for" in called.err
    assert list(tmp_path.iterdir()) == []


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run", "b", "--chat", "deep"], 3),  # the bundle comes first
        (["eval", "b", "--task", "deep"], 3),
        (["build", "--pair", "a+b", "-o", "x" * 5000], 2),
        (["inspect", "x" * 5000], 3),
    ],
)
def test_long_names_and_deep_files_have_a_remedy(cli, args, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").write_text(DEEP)
    called = cli(*args)
    assert called.code == code, called.err
    assert "-> " in called.err
    assert "bug of c2c-export" not in called.err


def test_stdin_that_is_closed_is_a_usage_error(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="stdin is closed"):
        read_messages(Path("-"))


def test_deep_messages_are_a_usage_error(tmp_path):
    (tmp_path / "deep").write_text(DEEP)
    with pytest.raises(UsageError, match="is no JSON"):
        read_messages(tmp_path / "deep")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ("pairs --json", 0, ""),
        ("build --pair demo -o b", 5, "[export]"),
        ("build --receiver r --sharer r --fuser r -o b", 5, "[export]"),
        ("init-fuser --receiver r --sharer r -o f", 5, "[export]"),
        ("demo -o b", 5, "[export]"),
    ],
)
def test_without_pytorch_a_command_says_what_to_install(tmp_path, args, code, says):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"model_type": "llama"}')
    called = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *args.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert called.returncode == code, called.stderr
    assert says in called.stderr
    assert "bug of c2c-export" not in called.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
