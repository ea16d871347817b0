"""What answers on a machine: engines of the bundle where they run, else ONNX Runtime, else nothing.

The one place where this is decided: ``run`` acts on it, ``doctor`` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from c2c_runtime.engine_check import EngineSet, choose_engines
from c2c_runtime.errors import Problem
from c2c_runtime.machine import Machine
from c2c_runtime.manifest import Manifest


@dataclass(frozen=True)
class BackendChoice:
    """``engines``: to answer with; None: ``ort`` says whether ONNX Runtime answers, on the CPU.

    ``problems``: why engines do not, and, where nothing answers, why ONNX Runtime does not either.
    """

    engines: EngineSet | None
    ort: bool
    problems: tuple[Problem, ...]

    @property
    def runs(self) -> bool:
        """Whether anything answers."""
        return self.engines is not None or self.ort


def choose_backend(
    manifest: Manifest, machine: Machine, bundle: str | Path = "BUNDLE"
) -> BackendChoice:
    """Engines first, then ONNX Runtime. Loads nothing."""
    choice = choose_engines(manifest, machine, bundle)
    if choice.sets:
        return BackendChoice(choice.best(), False, choice.problems)
    problems = choice.problems
    if not any(graph.dialect == "ort" for graph in manifest.graphs):
        missing = Problem(
            "the bundle holds no graphs of the dialect ort, which ONNX Runtime answers with",
            "run it where its engines run, or build it again with --backend ort",
        )
        return BackendChoice(None, False, (*problems, missing))
    if not any(name in machine.packages for name in ("onnxruntime", "onnxruntime-gpu")):
        missing = Problem("onnxruntime is not installed", "pip install 'c2c-export[cpu]'")
        return BackendChoice(None, False, (*problems, missing))
    return BackendChoice(None, True, problems)
