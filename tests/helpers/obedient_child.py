"""A child that does what its request says, for the tests of ``json_child``.

python -m obedient_child
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from c2c_runtime.errors import BundleError, CapacityError, Problem
from c2c_runtime.machine.json_child import ChildModule, serve


@dataclass(frozen=True)
class Order:
    """``do``: a key of ``DEEDS``. ``file``: for what it writes, or None."""

    do: str
    file: Path | None = None
    text: str = ""


@dataclass(frozen=True)
class Done:
    pid: int
    text: str


class OwnError(CapacityError):
    """Of a class that the asker does not know."""


CHILD = ChildModule("obedient_child", TypeAdapter(Order), TypeAdapter(Done))


def report(order, on_progress):
    on_progress(0.5, "half")
    on_progress(1.0, order.text)


def make_noise(order, on_progress):
    print("noise by Python")
    os.write(1, b"noise of a library\n")


def damage(order, on_progress):
    raise BundleError("wrong:", [Problem("one", "mend it"), Problem("two")])


def overflow(order, on_progress):
    raise OwnError("too many tokens", "ask for fewer")


def fail(order, on_progress):
    raise ZeroDivisionError("a bug")


def starve(order, on_progress):
    raise MemoryError


def kill_with(number):
    return lambda order, on_progress: os.kill(os.getpid(), number)


def hold(order, on_progress):
    held = bytearray(b"x") * (200 * 2**20)
    on_progress(0.5, "held")
    time.sleep(60)
    del held


def wait(order, on_progress):
    order.file.write_text(str(os.getpid()))
    on_progress(0.1, "waiting")
    time.sleep(60)


DEEDS = {
    "report": report,
    "make noise": make_noise,
    "damage": damage,
    "overflow": overflow,
    "fail": fail,
    "starve": starve,
    "be killed": kill_with(getattr(signal, "SIGKILL", 9)),
    "crash": kill_with(signal.SIGSEGV),
    "leave": lambda order, on_progress: os._exit(7),
    "hold": hold,
    "wait": wait,
}


def do(order, on_progress):
    DEEDS[order.do](order, on_progress)
    return Done(os.getpid(), order.text)


def abandoned(order):
    if order.file is not None:
        order.file.with_suffix(".gone").touch()


if __name__ == "__main__":
    sys.exit(serve(CHILD, do, on_abandoned=abandoned))
