"""What this machine is: its platform, the packages that matter here, its NVIDIA driver and GPUs.

Nothing heavy is imported: versions come from the packages' metadata, GPUs from cuda-bindings (12 or
13), where it is installed. Nothing here raises: what cannot be found out is None, and why there is no
GPU is said in words that a user can act on.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2c_runtime.bundle.manifest import EngineBackend
from c2c_runtime.errors import Problem

# The distributions that bring a backend's library. They share one import name, and their version is
# the library's; a wheel for CUDA 13 stands beside the one for CUDA 12.
LIBRARIES: Mapping[EngineBackend, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    *(name for names in LIBRARIES.values() for name in names),
    "cuda-bindings",
    "torch",
    "transformers",
    "onnx",
)
_PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}
_DRIVER_FILES = ("/proc/driver/nvidia/version", "/sys/module/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One GPU as CUDA numbers it. ``capability``: sm89. ``free_bytes``: None where not measured."""

    index: int
    name: str
    capability: str
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """What was found here.

    ``packages``: version by distribution, of those that are installed. ``driver_version``: NVIDIA's
    (570.86.10). ``driver_cuda_version``: the newest CUDA that the driver serves (12.8).
    ``cuda_version``: of the CUDA runtime that cuda-bindings brings. ``no_gpu``: why ``gpus`` is empty,
    or why one of them is left out; None where all of them are there.
    """

    platform: str
    python: str
    packages: Mapping[str, str]
    driver_version: str | None = None
    driver_cuda_version: str | None = None
    cuda_version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    no_gpu: Problem | None = None

    def library_version(self, backend: EngineBackend) -> str | None:
        """Version of the library that runs and builds a backend's engines; None: not installed."""
        found = (self.packages.get(name) for name in LIBRARIES[backend])
        return next((version for version in found if version), None)


def detect_machine(*, measure_memory: bool = False) -> Machine:
    """Look at this machine. Never raises.

    ``measure_memory`` also asks each GPU for its free memory, which starts a CUDA context on it.
    """
    packages = {name: version for name in _PACKAGES if (version := installed_version(name))}
    cuda = _Cuda(packages.get("cuda-bindings"))
    try:
        cuda.look(measure_memory)
    except Exception as error:  # noqa: BLE001  what a broken driver installation raises is open
        cuda.no_gpu = Problem(f"CUDA failed: {_one_line(error)}", _REINSTALL)
    return Machine(
        platform=platform_name(),
        python=platform.python_version(),
        packages=packages,
        driver_version=_driver_version(),
        driver_cuda_version=cuda.driver_cuda_version,
        cuda_version=cuda.cuda_version,
        gpus=tuple(cuda.gpus),
        no_gpu=cuda.no_gpu,
    )


def platform_name() -> str:
    """Operating system and processor, as engines name them: linux-x86_64, linux-aarch64."""
    processor = platform.machine().lower()
    return f"{platform.system().lower()}-{_PROCESSORS.get(processor, processor)}"


def installed_version(distribution: str) -> str | None:
    """Version of a distribution, from its metadata; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution) or None
    except Exception:  # noqa: BLE001  half-removed packages raise KeyError, OSError, UnicodeError
        return None


_REINSTALL = "reinstall the NVIDIA driver, then cuda-bindings: pip install 'c2c-export[gpu]'"


class _Cuda:
    """One look through cuda-bindings; every call of it returns (error, values...)."""

    def __init__(self, bindings_version: str | None) -> None:
        self.bindings_version = bindings_version
        self.driver_cuda_version: str | None = None
        self.cuda_version: str | None = None
        self.gpus: list[Gpu] = []
        self.no_gpu: Problem | None = None

    def look(self, measure_memory: bool) -> None:
        if self.bindings_version is None:
            self.no_gpu = Problem(
                "cuda-bindings is not installed, so no GPU can be used",
                "on a machine with an NVIDIA GPU: pip install 'c2c-export[gpu]'",
            )
            return
        try:
            from cuda.bindings import runtime
        except ImportError as failed:
            cause = f"cuda-bindings {self.bindings_version} cannot be imported: {_one_line(failed)}"
            self.no_gpu = Problem(cause, _REINSTALL)
            return
        self.driver_cuda_version = _cuda_version(runtime.cudaDriverGetVersion())
        self.cuda_version = _cuda_version(runtime.cudaRuntimeGetVersion())
        error, count = runtime.cudaGetDeviceCount()
        if int(error) or not count:
            self.no_gpu = self._why_none(_name(error))
            return
        for index in range(count):
            self._look_at(runtime, index)
        if measure_memory:
            self._measure(runtime)

    def _look_at(self, runtime: Any, index: int) -> None:
        error, found = runtime.cudaGetDeviceProperties(index)
        if int(error):
            self.no_gpu = Problem(f"GPU {index} does not answer: {_name(error)}", _REINSTALL)
            return
        name = found.name
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        capability = f"sm{found.major}{found.minor}"
        self.gpus.append(Gpu(index, text.rstrip("\0"), capability, int(found.totalGlobalMem)))

    def _measure(self, runtime: Any) -> None:
        """Free memory of every GPU; the device that was current stays so."""
        _, current = runtime.cudaGetDevice()
        for place, gpu in enumerate(self.gpus):
            (error,) = runtime.cudaSetDevice(gpu.index)
            if not int(error):
                error, free, _ = runtime.cudaMemGetInfo()
            if int(error):
                cause = f"GPU {gpu.index} ({gpu.name}) cannot be used: {_name(error)}"
                self.no_gpu = Problem(cause, "end what uses it, or see `nvidia-smi`")
            else:
                self.gpus[place] = Gpu(
                    gpu.index, gpu.name, gpu.capability, gpu.memory_bytes, int(free)
                )
        runtime.cudaSetDevice(current)

    def _why_none(self, error: str) -> Problem:
        install = "on a machine with an NVIDIA GPU, install NVIDIA's driver; `nvidia-smi` shows it"
        if error == "cudaErrorInsufficientDriver":
            if self.driver_cuda_version is None:
                return Problem("no NVIDIA driver was found", install)
            major = self.driver_cuda_version.partition(".")[0]
            return Problem(
                f"the NVIDIA driver serves CUDA {self.driver_cuda_version}, older than cuda-bindings "
                f"{self.bindings_version} needs (CUDA {self.cuda_version})",
                f"update the driver, or: pip install 'cuda-bindings=={major}.*'",
            )
        if error in ("cudaErrorNoDevice", "cudaSuccess"):
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
            if hidden is not None:
                return Problem(
                    f"no GPU is visible: CUDA_VISIBLE_DEVICES is {hidden!r}",
                    "unset CUDA_VISIBLE_DEVICES, or name a GPU in it: CUDA_VISIBLE_DEVICES=0",
                )
            return Problem("there is an NVIDIA driver but it finds no GPU", install)
        return Problem(f"CUDA finds no usable GPU: {error}", _REINSTALL)


def _cuda_version(answer: tuple[Any, Any]) -> str | None:
    """12080 is 12.8; 0 is what a machine without a driver says."""
    error, number = answer
    return None if int(error) or not number else f"{number // 1000}.{number % 1000 // 10}"


def _driver_version() -> str | None:
    for file in _DRIVER_FILES:
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if found := re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text):
            return found.group()
    return None


def _name(error: Any) -> str:
    return str(getattr(error, "name", error))


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
