"""The command line: parses, calls one function, turns errors into messages and exit codes.

Commands load on use, so that ``run`` on a device never imports what only ``build`` needs.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from c2c_export import __version__
from c2c_export.interrupts import code_of_interrupt, ending_like_ctrl_c
from c2c_export.system_errors import error_from_machine
from c2c_runtime.errors import C2CError, UsageError

_COMMANDS = {
    "build": "Compile a pair into a bundle.",
    "build-engines": "Build TensorRT engines into a bundle.",
    "run": "Answer a prompt with a bundle.",
    "verify": "Check a bundle against what eager PyTorch computed.",
    "bench": "Measure bundles, and peers in the same run.",
    "eval": "Compare accuracy and time with and without the Sharers.",
    "inspect": "Show what a bundle holds.",
    "doctor": "Show what this machine can do, and what a bundle would do on it.",
    "init-fuser": "Write a fuser checkpoint with random weights.",
    "pairs": "List the published pairs.",
    "cache": "Show or clear what builds keep for the next ones.",
    "demo": "Build the demo pair and ask it a question.",
}


class _ReaderLeft(Exception):
    """Nobody reads our output any more, as behind `head`."""


@contextmanager
def _noticing_readers() -> Iterator[None]:
    """Where nobody reads our output any more, click and rich would both end with 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderLeft from error
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # that is how rich ends
            raise _ReaderLeft from error
        raise


class LazyGroup(click.Group):
    """A group whose commands are modules of ``c2c_export.commands``, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help page."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a name, or None."""
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"c2c_export.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with _noticing_readers():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **named: Any) -> click.Context:
        """Read the arguments; help pages come out meanwhile."""
        with _noticing_readers():
            return super().make_context(*args, **named)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 the pair, checkpoint or bundle is wrong, "
    "4 verification failed, 5 something needed is not here, 130 Ctrl-C, 143 ended by SIGTERM.",
)
@click.version_option(__version__, prog_name="c2c-export")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Compile Cache-to-Cache pairs to ONNX bundles, and run them.

    \b
    Examples:
      c2c-export build --pair demo -o demo.bundle
      c2c-export run demo.bundle "The capital of France is" --max-new-tokens 16
    """


def program() -> None:
    """Entry point of ``c2c-export``: ``main``, and the end of the process right behind it."""
    try:
        main()
    finally:
        # Else the interpreter looks through every object of PyTorch and transformers once more before
        # it ends: more than a second after the last line.
        gc.freeze()


def main(args: list[str] | None = None) -> None:
    """What ``c2c-export`` does. Exits with the code of the error that ended it, if any."""
    args = sys.argv[1:] if args is None else args
    with ending_like_ctrl_c():
        code = _run(args, debug="--debug" in args)
    sys.exit(code)


def _run(args: list[str], debug: bool) -> int:
    try:
        _require_streams()
        result = cli.main(args, prog_name="c2c-export", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return _fail("interrupted; nothing was left behind", code_of_interrupt(error), debug)
    except (BrokenPipeError, _ReaderLeft):
        # The reader of our output left, as `head` does. Flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except C2CError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError:
        return _fail(
            "not enough memory\n    -> close other programs or use a smaller pair", 5, debug
        )
    except Exception as error:  # noqa: BLE001  the last line of defence: whatever is left is our bug
        known = error_from_machine(error)
        if known is not None:
            return _fail(str(known), known.exit_code, debug)
        hint = "this is a bug of c2c-export; run again with `c2c-export --debug ...` and report it"
        return _fail(f"{type(error).__name__}: {error}\n    -> {hint}", 1, debug)


def _require_streams() -> None:
    """Refuse to run without a place for output. What is closed becomes the null device: the next file to be
    opened would take its number, and receive what libraries print."""
    is_closed = sys.stdout is None
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    if is_closed:
        raise UsageError(
            "stdout is closed, so there is no place for what this prints",
            "open it, or send it to /dev/null",
        )


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"error: {message}", err=True)
    return code


if __name__ == "__main__":
    program()
