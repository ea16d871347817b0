"""What is installed here: c2c-export's extras, whether libraries load, what breaks each other.

Versions come from packages' metadata. Whether a library loads is tried in a process of its own, so
that a broken one cannot take this one down.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from c2c_runtime.errors import Problem
from c2c_runtime.machine.machine import LIBRARIES, Machine, installed_version

EXTRAS = {
    "": "always",
    "cpu": "ONNX Runtime on CPUs",
    "gpu": "ONNX Runtime on NVIDIA GPUs",
    "tensorrt": "TensorRT engines",
    "tensorrt-rtx": "TensorRT-RTX engines",
    "export": "compiling pairs; not needed to run",
}
# Distributions that serve as well as the one that an extra names.
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": LIBRARIES["tensorrt"],
    "tensorrt-rtx-cu12": LIBRARIES["tensorrt-rtx"],
}
_PROBES = {
    "onnxruntime": "onnxruntime.get_available_providers()",
    "tensorrt": "tensorrt.__version__",
    "tensorrt_rtx": "tensorrt_rtx.__version__",
}
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": LIBRARIES["tensorrt"],
    "tensorrt_rtx": LIBRARIES["tensorrt-rtx"],
}
_PROBE_TIMEOUT_S = 120


@dataclass(frozen=True)
class Package:
    """A package that an extra asks for. ``version`` None: not installed. ``needs``: >=1.32."""

    name: str
    version: str | None
    needs: str
    ok: bool


@dataclass(frozen=True)
class Extra:
    """The packages of ``pip install 'c2c-export[name]'``; name "" are those that are always needed."""

    name: str
    purpose: str
    packages: tuple[Package, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is missing or too old, as one problem; empty where the extra is complete."""
        bad = [
            f"{package.name} {'is not installed' if package.version is None else package.version}"
            + (f" (needs {package.needs})" if package.needs else "")
            for package in self.packages
            if not package.ok
        ]
        brackets = f"[{self.name}]" if self.name else ""
        return (Problem(", ".join(bad), f"pip install 'c2c-export{brackets}'"),) if bad else ()


@dataclass(frozen=True)
class Probe:
    """What a module said when a process of its own loaded it. ``failure``: its last words."""

    answer: str | list[str] | None = None
    failure: str | None = None


def probe(module: str) -> Probe:
    """Load a module in a process of its own and ask it what ``_PROBES`` says."""
    code = f"import json, {module}; print(json.dumps({_PROBES[module]}))"
    try:
        called = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
        if called.returncode == 0:
            return Probe(answer=json.loads(called.stdout.splitlines()[-1]))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return Probe(failure=str(error))
    words = called.stderr.strip().splitlines()
    return Probe(failure=words[-1] if words else f"it ended with code {called.returncode}")


def requirements() -> Mapping[str, tuple[Requirement, ...]]:
    """What the installed c2c-export asks for, by extra; "" is what it always needs."""
    found: dict[str, list[Requirement]] = {name: [] for name in EXTRAS}
    try:
        lines = importlib.metadata.requires("c2c-export") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        lines = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        for extra, listed in found.items():
            of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
            if of_extra != bool(extra) or requirement.name == "c2c-export":
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                listed.append(requirement)
    return {extra: tuple(listed) for extra, listed in found.items()}


def installed_extras() -> dict[str, Extra]:
    """Every extra of ``EXTRAS`` and what of it is here, by name."""
    asked = requirements()
    return {
        name: Extra(name, purpose, tuple(_package(item) for item in asked[name]))
        for name, purpose in EXTRAS.items()
    }


def _package(requirement: Requirement) -> Package:
    candidates = (requirement.name, *_ALTERNATIVES.get(requirement.name, ()))
    found = next(((n, v) for n in candidates if (v := installed_version(n))), None)
    if found is None:
        return Package(requirement.name, None, str(requirement.specifier), False)
    name, version = found
    try:
        ok = requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        ok = True  # a local build's name for itself: nothing can be said against it
    return Package(name, version, str(requirement.specifier), ok)


def find_conflicts(machine: Machine) -> tuple[Problem, ...]:
    """Installed packages that break each other."""
    conflicts = []
    ort = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in machine.packages]
    if len(ort) == 2:
        conflicts.append(
            Problem(
                "onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's "
                "files, and removing one breaks the other",
                "pip uninstall -y onnxruntime onnxruntime-gpu; then pip install 'c2c-export[gpu]' "
                "(or [cpu])",
            )
        )
    for names in LIBRARIES.values():
        both = [name for name in names if name[-5:-2] == "-cu" and name in machine.packages]
        if len(both) == 2:
            conflicts.append(
                Problem(
                    f"{both[0]} and {both[1]} are both installed: only one of them is imported",
                    f"pip uninstall the one that does not match CUDA {machine.driver_cuda_version}"
                    if machine.driver_cuda_version
                    else "pip uninstall the one that does not match the driver's CUDA",
                )
            )
    return tuple(conflicts)


def probe_libraries(machine: Machine) -> dict[str, Probe]:
    """What each backend's library that is installed says when it is loaded, by module."""
    return {
        module: probe(module)
        for module in _PROBES
        if any(name in machine.packages for name in _DISTRIBUTIONS[module])
    }
