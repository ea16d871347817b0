"""A build in a process of its own: what ends it is told, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from engine_graphs import request_of, requires_rtx, write_receiver

from c2c_engines.process import build_engine_apart
from c2c_engines.request import WORKER
from c2c_runtime.errors import BundleError, InputError, Problem, UnavailableError

pytestmark = requires_rtx


@pytest.fixture
def request_(tmp_path):
    graph = write_receiver(tmp_path / "receiver.onnx")
    return request_of(graph, tmp_path)


def workers():
    """The children of this process that build."""
    return [
        child
        for child in psutil.Process().children()
        if child.is_running() and "c2c_engines.worker" in child.cmdline()
    ]


def files(request):
    folder = os.path.dirname(request.engine_path)
    return sorted(name for name in os.listdir(folder) if ".engine" in name)


def test_it_builds_and_reports_progress_and_peak_memory(request_):
    said = []
    report = build_engine_apart(request_, lambda fraction, phase: said.append(fraction))
    assert files(request_) == ["receiver.engine"]
    assert report.size_bytes == os.path.getsize(request_.engine_path)
    assert report.network.num_kv_updates == 4
    assert report.network.attentions[0].name
    assert (said[0], said[-1]) == (0.0, 1.0)
    assert said == sorted(said)
    assert report.peak_memory_bytes is not None
    assert 50 * 2**20 < report.peak_memory_bytes < 4 * 2**30
    assert workers() == []


def test_the_peak_is_the_child_s_and_not_its_parent_s(request_):
    ballast = bytearray(os.urandom(1)) * (600 * 2**20)
    report = build_engine_apart(request_)
    assert report.peak_memory_bytes is not None
    assert report.peak_memory_bytes < len(ballast)


def test_a_build_above_the_ceiling_is_ended(request_):
    said = []
    with pytest.raises(UnavailableError, match="more than the 64 MiB it may take") as refusal:
        build_engine_apart(
            request_, lambda fraction, _: said.append(fraction), max_memory_bytes=64 * 2**20
        )
    assert 1.0 not in said  # it did not go on to the end
    assert "--max-build-memory" in refusal.value.remedy
    assert files(request_) == []
    assert workers() == []


def test_a_ceiling_that_is_high_enough_changes_nothing(request_):
    assert build_engine_apart(request_, max_memory_bytes=8 * 2**30).size_bytes > 0


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (signal.SIGKILL, "was killed, most likely by the system for want of memory"),
        (signal.SIGSEGV, "crashed .SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_an_error_with_a_remedy(request_, how, says):
    def end_the_worker(fraction, phase):
        for child in workers():
            child.send_signal(how)

    with pytest.raises(UnavailableError, match=says) as refusal:
        build_engine_apart(request_, end_the_worker)
    assert "the engine of receiver for sm89" in refusal.value.cause
    assert refusal.value.remedy
    assert files(request_) == []


def test_errors_come_through_as_they_are(request_, tmp_path):
    decode, prefill = request_.profiles
    with pytest.raises(InputError) as refusal:
        build_engine_apart(replace(request_, profiles=(decode, replace(prefill, shapes={}))))
    assert refusal.value.headline == "the profiles do not fit the graph receiver:"
    assert len(refusal.value.problems) == len([t for t in request_.graph.inputs if t.shape])
    assert isinstance(refusal.value.problems[0], Problem)
    with pytest.raises(UnavailableError, match="cannot build for sm87") as unavailable:
        build_engine_apart(replace(request_, target="sm87"))
    assert unavailable.value.remedy.startswith("for sm87")
    (tmp_path / "receiver.onnx").unlink()
    with pytest.raises(BundleError, match=r"receiver\.onnx is missing"):
        build_engine_apart(request_)


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(request_, tmp_path):
    with pytest.raises(UnavailableError, match=r"cannot be written.*No such file") as refusal:
        build_engine_apart(replace(request_, engine_path=str(tmp_path / "nowhere" / "e.engine")))
    assert refusal.value.remedy


def test_an_interrupt_ends_the_child_and_leaves_no_file(request_):
    def interrupt(fraction, phase):
        assert len(workers()) == 1
        if fraction > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine_apart(request_, interrupt)
    assert workers() == []
    assert files(request_) == []


def test_an_engine_that_was_there_survives_a_build_that_fails(request_, tmp_path):
    (tmp_path / "receiver.engine").write_bytes(b"old")
    with pytest.raises(UnavailableError):
        build_engine_apart(replace(request_, target="sm87"))
    assert (tmp_path / "receiver.engine").read_bytes() == b"old"


def worker():
    return subprocess.Popen(
        [sys.executable, "-m", "c2c_engines.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_stdout_of_the_worker_is_lines_of_json_only(request_):
    process = worker()
    process.stdin.write(WORKER.request.dump_json(request_).decode() + "\n")
    process.stdin.flush()
    messages = [json.loads(line) for line in process.stdout]
    process.stdin.close()
    assert process.wait(60) == 0
    assert all(set(message) == {"progress"} for message in messages[:-1])
    assert messages[-1]["report"]["role"] == "receiver"
    process.stdout.close()
    process.stderr.close()


def test_the_worker_ends_when_whoever_asked_is_gone(request_):
    process = worker()
    process.communicate(WORKER.request.dump_json(request_).decode() + "\n", timeout=60)
    assert process.returncode == 130
    assert files(request_) == []
