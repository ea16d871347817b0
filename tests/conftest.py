"""What every test shares: the gpu tier's skip, the command line as a function, golden bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from c2c_runtime.machine.machine import detect_machine

_LONG = {"test_combinations", "test_engine_bundles", "test_scatter_golden", "test_static_golden"}


def pytest_configure(config: pytest.Config) -> None:
    """A worker keeps to cores of its own, and so do the threads of torch and ONNX Runtime in it: where
    each worker has a thread for every core, they wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker or not hasattr(os, "sched_setaffinity"):
        return
    num_workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    if num_workers <= len(cores):
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: num_workers])


def _why_no_gpu() -> str | None:
    machine = detect_machine()
    if machine.gpus:
        return None
    return machine.no_gpu.cause if machine.no_gpu else "no GPU was found"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first, so that no worker is left alone with them at the end.
    items.sort(key=lambda item: (not item.get_closest_marker("real"), item.path.stem not in _LONG))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stages of all tests of a run are kept in one place, that of all workers, and nowhere else."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("C2C_CACHE_DIR", str(root / "c2c-cache"))
        yield


@dataclass(frozen=True)
class Called:
    """What a call of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call the command line as a user does, in this process."""
    from c2c_export.cli import main

    def call(*args: object) -> Called:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Called(int(exit_info.value.code or 0), out, err)

    return call
