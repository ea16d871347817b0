"""What answers on a machine: engines of the bundle where they run, else ONNX Runtime on the CPU.

The one place where this is decided, so that ``run`` does what ``doctor`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from c2c_runtime.engine_check import EngineSet, choose_engines
from c2c_runtime.errors import Problem
from c2c_runtime.machine import Machine
from c2c_runtime.manifest import Dialect, Manifest

# ONNX Runtime runs them all; those made for TensorRT cost the whole cache at every step.
_ORT_DIALECTS: tuple[Dialect, ...] = ("ort", "tensorrt", "tensorrt-scatter")


@dataclass(frozen=True)
class BackendChoice:
    """``engines``: what answers; None: ONNX Runtime does, with the graphs of ``ort_dialect``; both
    None: nothing does. ``problems``: why engines do not, and where nothing answers, why nothing."""

    engines: EngineSet | None
    ort_dialect: Dialect | None
    problems: tuple[Problem, ...]


def choose_backend(
    manifest: Manifest, machine: Machine, bundle: str | Path = "BUNDLE"
) -> BackendChoice:
    """Engines first, then ONNX Runtime. Loads nothing, raises nothing."""
    choice = choose_engines(manifest, machine, bundle)
    if choice.sets:
        return BackendChoice(choice.best(), None, choice.problems)
    if not any(name in machine.packages for name in ("onnxruntime", "onnxruntime-gpu")):
        missing = Problem("onnxruntime is not installed", "pip install 'c2c-export[cpu]'")
        return BackendChoice(None, None, (*choice.problems, missing))
    there = {graph.dialect for graph in manifest.graphs}
    dialect = next((dialect for dialect in _ORT_DIALECTS if dialect in there), None)
    return BackendChoice(None, dialect, choice.problems)
