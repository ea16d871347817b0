"""SIGTERM ends a command as Ctrl-C does: what runs is cleared away, children too, and the code is 143."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
from interrupts import heeds_ctrl_c

from c2c_export.interrupts import ending_like_ctrl_c

COMMAND = """
import subprocess, sys, time
from c2c_export import cli
def work(*_, **__):
    try:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"]) as child:
            try:
                print(child.pid, flush=True)
                time.sleep(99)
            finally:
                child.kill()
    finally:
        print("cleared", flush=True)
cli.cli.invoke = work
cli.main(["pairs"])
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_ended_clears_away(how, code):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_ctrl_c,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "cleared\n")
    assert "interrupted" in err


def test_the_signal_is_nobodys_afterwards_and_others_keep_theirs():
    with ending_like_ctrl_c():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_like_ctrl_c():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    thread = threading.Thread(target=lambda: ending_like_ctrl_c().__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
