"""What answers on a machine: engines of a bundle, or ONNX Runtime on a GPU or on the CPU, or nothing.

The one place where this is decided, so that ``run`` does what ``doctor`` says. Nothing is loaded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from c2c_runtime.bundle.manifest import Dialect, Manifest
from c2c_runtime.errors import Problem, UnavailableError
from c2c_runtime.machine.engine_check import EngineSet, choose_engines
from c2c_runtime.machine.machine import Machine

Device = Literal["cpu", "cuda", "tensorrt"]
Wish = Literal["auto", "cpu", "cuda", "tensorrt"]
DEVICES: tuple[Wish, ...] = get_args(Wish)


@dataclass(frozen=True)
class BackendChoice:
    """``device``: what answers; None: nothing does. ``engines``: those that do, on ``tensorrt``.
    ``ort_dialect``: of the graphs that ONNX Runtime answers with, on ``cpu`` and ``cuda``.
    ``problems``: why something better, or what was asked for, does not."""

    device: Device | None
    engines: EngineSet | None = None
    ort_dialect: Dialect | None = None
    problems: tuple[Problem, ...] = ()

    def require(self, bundle: str | Path) -> Device:
        """The device. Raises ``UnavailableError`` with every reason where nothing answers."""
        if self.device is not None:
            return self.device
        reasons = "".join(f"\n  - {problem}" for problem in self.problems)
        raise UnavailableError(f"{bundle} cannot be run on this machine:{reasons}")


def choose_backend(
    manifest: Manifest, machine: Machine, bundle: str | Path = "BUNDLE", wish: Wish = "auto"
) -> BackendChoice:
    """Decide. ``auto``: engines if the bundle has some that run here; else graphs made for GPUs with
    ONNX Runtime on one; graphs made for CPUs on the CPU. Graphs made for GPUs run on the CPU only if
    asked: every step costs the whole cache there, which serves to check them and for nothing else.
    ``bundle``: the path that remedies name."""
    dialect = manifest.graphs[0].dialect if manifest.graphs else "ort"
    problems: list[Problem] = []
    if wish == "tensorrt" or (wish == "auto" and (manifest.engines or dialect != "ort")):
        choice = choose_engines(manifest, machine, bundle)
        problems += choice.problems
        if choice.sets:
            return BackendChoice("tensorrt", choice.best(), None, choice.problems)
    if wish == "cuda" or (wish == "auto" and dialect != "ort"):
        reasons = _cuda_problems(machine, dialect)
        problems += reasons
        if not reasons:
            return BackendChoice("cuda", None, dialect, tuple(problems))
    if wish == "cpu" or (wish == "auto" and dialect == "ort"):
        if _has_onnxruntime(machine):
            return BackendChoice("cpu", None, dialect, tuple(problems))
        problems.append(Problem("onnxruntime is not installed", "pip install 'c2c-export[cpu]'"))
    if wish == "auto" and dialect != "ort":
        problems.append(
            Problem(
                "the graphs of this bundle were made for GPUs",
                "to check them on the CPU, slowly: --device cpu; to serve there: build the pair "
                "with --backend ort --target cpu",
            )
        )
    return BackendChoice(None, None, None, tuple(dict.fromkeys(problems)))


def _cuda_problems(machine: Machine, dialect: Dialect) -> list[Problem]:
    problems = []
    if dialect == "ort":
        problems.append(
            Problem(
                "the graphs of this bundle were made for CPUs",
                "build the pair with --backend ort --target cuda",
            )
        )
    if "onnxruntime-gpu" not in machine.packages:
        problems.append(
            Problem(
                "onnxruntime-gpu is not installed",
                "pip uninstall -y onnxruntime; then pip install 'c2c-export[gpu]'",
            )
        )
    if not machine.gpus:
        problems.append(machine.no_gpu or Problem("no GPU was found"))
    return problems


def _has_onnxruntime(machine: Machine) -> bool:
    return any(name in machine.packages for name in ("onnxruntime", "onnxruntime-gpu"))
