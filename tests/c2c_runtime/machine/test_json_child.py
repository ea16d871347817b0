"""Work in processes of their own: answers, errors and ends come through, and nobody is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from obedient_child import CHILD, Order

from c2c_runtime.errors import BundleError, CapacityError, UnavailableError
from c2c_runtime.machine.json_child import ChildEndedError, Job, Wording, ask, ask_all

MIB = 2**20
WORDING = Wording("the errand", if_crashed="see a doctor", if_too_large="eat less")
HELPERS = Path(__file__).resolve().parents[2] / "helpers"


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """Children find their module where this process does."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS), prepend=os.pathsep)


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    assert children() == []


def children():
    return [
        child for child in psutil.Process().children() if CHILD.name in " ".join(child.cmdline())
    ]


def job(do, file=None, text="", **limits):
    return Job(CHILD, Order(do, file, text), WORDING, **limits)


def test_report_and_progress_come_through_in_any_script():
    said = []
    done = ask(job("report", text="größer 大", on_progress=lambda *word: said.append(word)))
    assert done.text == "größer 大"
    assert done.pid != os.getpid()
    assert said == [(0.5, "half"), (1.0, "größer 大")]


def test_a_request_larger_than_a_pipe_comes_through():
    assert len(ask(job("report", text="x" * MIB)).text) == MIB


def test_what_is_printed_does_not_get_between_the_lines():
    assert ask(job("make noise", text="clear")).text == "clear"


def test_errors_come_through_as_they_are():
    with pytest.raises(BundleError) as damaged:
        ask(job("damage"))
    assert damaged.value.headline == "wrong:"
    assert [(p.cause, p.remedy) for p in damaged.value.problems] == [
        ("one", "mend it"),
        ("two", ""),
    ]
    with pytest.raises(CapacityError) as full:
        ask(job("overflow"))
    assert type(full.value) is CapacityError  # what the child's own class is a kind of
    assert (full.value.cause, full.value.remedy) == ("too many tokens", "ask for fewer")
    with pytest.raises(UnavailableError, match="not enough memory"):
        ask(job("starve"))


@pytest.mark.parametrize(
    ("do", "how", "is_crash", "says", "remedy"),
    [
        ("be killed", "SIGKILL", True, "the errand was killed, most likely by the system", "close"),
        ("crash", "SIGSEGV", True, r"the errand crashed .SIGSEGV", "see a doctor"),
        ("leave", "exit status 7", False, r"the errand crashed .exit status 7", "see a doctor"),
        ("fail", "exit status 1", False, r"(?s)exit status 1.*ZeroDivisionError: a bug", "see a"),
    ],
)
def test_how_a_child_ended_is_told_apart(do, how, is_crash, says, remedy):
    with pytest.raises(ChildEndedError, match=says) as ended:
        ask(job(do))
    assert (ended.value.how, ended.value.is_crash) == (how, is_crash)
    assert ended.value.remedy.startswith(remedy)


def test_a_child_above_its_ceiling_is_ended():
    with pytest.raises(UnavailableError, match="more than the 150 MiB it may take") as refused:
        ask(job("hold", max_memory_bytes=150 * MIB))
    assert refused.value.remedy == "eat less"


def test_a_child_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(UnavailableError, match=r"the errand was not done after 0\.5 s"):
        ask(job("wait", tmp_path / "pid", timeout_s=0.5))


def test_children_run_side_by_side_and_answer_in_order():
    said = []
    done = ask_all(
        [
            job("report", text=str(number), on_progress=lambda *word: said.append(word[1]))
            for number in range(3)
        ]
    )
    assert [one.text for one in done] == ["0", "1", "2"]
    assert len({one.pid for one in done}) == 3
    assert sorted(said) == ["0", "1", "2", "half", "half", "half"]
    assert ask_all([]) == []


def test_each_child_has_its_own_ceiling_and_the_first_error_ends_the_others(tmp_path):
    with pytest.raises(UnavailableError, match="more than the 150 MiB"):
        ask_all(
            [
                job("wait", tmp_path / "pid", max_memory_bytes=2**40),
                job("hold", max_memory_bytes=150 * MIB),
                job("hold", max_memory_bytes=2**40),
            ]
        )


@pytest.mark.parametrize("num", [1, 2])
def test_an_interrupt_of_the_asker_ends_all_children(tmp_path, num):
    def interrupt(fraction, doing):
        raise KeyboardInterrupt

    jobs = [job("wait", tmp_path / "pid") for _ in range(num - 1)]
    jobs.append(job("wait", tmp_path / "pid", on_progress=interrupt))
    with pytest.raises(KeyboardInterrupt):
        ask_all(jobs) if num > 1 else ask(jobs[0])


def test_a_child_ends_and_clears_up_when_its_asker_is_gone(tmp_path):
    order = CHILD.request.dump_json(Order("wait", tmp_path / "pid")).decode()
    child = subprocess.Popen(
        [sys.executable, "-m", CHILD.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child.stdin.write(order + "\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"progress": [0.1, "waiting"]}
    child.stdin.close()
    assert child.wait(30) == 130
    assert (tmp_path / "pid.gone").exists()
    child.stdout.close()
