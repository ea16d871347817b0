"""What every test shares: the gpu tier's skip, the command line as a function, golden bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


def _why_no_gpu() -> str | None:
    try:
        from cuda.bindings import driver
    except ImportError:
        return "cuda-bindings is not installed"
    try:
        error, count = driver.cuInit(0)[0], 0
    except RuntimeError:  # what cuda-bindings raises where libcuda itself is missing
        return "no GPU is here (no driver is installed)"
    if int(error) == 0:
        error, count = driver.cuDeviceGetCount()
    return None if count else f"no GPU is here ({error.name})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first, so that no worker is left alone with them at the end.
    items.sort(key=lambda item: 0 if item.get_closest_marker("real") else 1)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _why_no_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


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
