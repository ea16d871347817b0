"""Machines that are not here: a lookalike of ``cuda.bindings``, and ready ``Machine`` values."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from c2c_runtime.machine.machine import Gpu, Machine

RTX_4090 = Gpu(0, "NVIDIA GeForce RTX 4090", "sm89", 24 * 2**30, 23 * 2**30)
ORIN = Gpu(0, "Orin", "sm87", 8 * 2**30, 6 * 2**30)

NOTHING = Machine("linux-x86_64", "3.11.7", {"onnxruntime": "1.32.0"})
WORKSTATION = replace(
    NOTHING,
    packages={"onnxruntime": "1.32.0", "tensorrt-rtx-cu12": "1.7.1.116", "cuda-bindings": "12.9.4"},
    driver_version="575.57.08",
    driver_cuda_version="12.9",
    cuda_version="12.9",
    gpus=(RTX_4090,),
)
JETSON = replace(
    WORKSTATION,
    platform="linux-aarch64",
    packages={"onnxruntime": "1.32.0", "tensorrt": "10.3.0", "cuda-bindings": "12.6.0"},
    gpus=(ORIN,),
)


class CudaError(enum.IntEnum):
    """The numbers are CUDA's."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorSystemDriverMismatch = 803


@dataclass
class Properties:
    """As much of ``cudaDeviceProp`` as is read. ``name`` is bytes, as cuda-bindings gives it."""

    name: bytes
    major: int
    minor: int
    totalGlobalMem: int


@dataclass
class FakeRuntime:
    """``cuda.bindings.runtime``: every call returns a tuple that begins with an error."""

    devices: tuple[Properties, ...] = ()
    error: CudaError = CudaError.cudaSuccess
    driver: int = 12090
    runtime: int = 12090
    busy: bool = False
    current: int = 0

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return CudaError.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return CudaError.cudaSuccess, self.runtime

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (self.error, None) if self.error else (self.error, len(self.devices))

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:
        return CudaError.cudaSuccess, self.devices[index]

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return CudaError.cudaSuccess, self.current

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        if self.busy:
            return (CudaError.cudaErrorDevicesUnavailable,)
        self.current = index
        return (CudaError.cudaSuccess,)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        total = self.devices[self.current].totalGlobalMem
        return CudaError.cudaSuccess, total // 2, total


def install(monkeypatch: pytest.MonkeyPatch, runtime: Any, version: str | None = "12.9.4") -> None:
    """Let ``from cuda.bindings import runtime`` find ``runtime``, of cuda-bindings ``version``
    (None: not installed). An exception as ``runtime`` is raised by every call."""
    if isinstance(runtime, Exception):
        error = runtime

        class Broken:
            def __getattr__(self, name: str) -> Any:
                raise error

        runtime = Broken()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = runtime  # type: ignore[attr-defined]
    cuda = ModuleType("cuda")
    cuda.bindings = bindings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    packages(monkeypatch, {"cuda-bindings": version} if version else {})


def packages(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    """Let these distributions be all that is installed."""
    monkeypatch.setattr("c2c_runtime.machine.machine.installed_version", installed.get)
    monkeypatch.setattr("c2c_export.doctor.installed.installed_version", installed.get)
