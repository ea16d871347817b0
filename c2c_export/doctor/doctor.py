"""What this machine can do with each backend, and why not: the machine's half of ``doctor``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from c2c_export import __version__
from c2c_export.doctor.installed import (
    Extra,
    Probe,
    find_conflicts,
    installed_extras,
    probe_libraries,
)
from c2c_runtime.bundle.manifest import EngineBackend
from c2c_runtime.errors import Problem
from c2c_runtime.machine.engine_check import (
    TENSORRT_RTX_PLATFORMS,
    TENSORRT_RTX_TARGETS,
    dialects_for,
)
from c2c_runtime.machine.machine import LIBRARIES, Machine, detect_machine
from c2c_runtime.machine.process_memory import available_bytes, total_bytes


@dataclass(frozen=True)
class Ability:
    """Whether something can be done here, and why not. ``engines``: from graphs of a bundle that was
    compiled elsewhere, but pairs cannot be compiled."""

    can: Literal["yes", "engines", "no"]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class BackendReport:
    """What a backend can do on this machine."""

    name: str
    build: Ability
    run: Ability
    note: str = ""


@dataclass(frozen=True)
class MachineReport:
    """Everything ``doctor`` says of a machine. ``probes``: by module, what it said when it was loaded,
    or why it could not be. ``conflicts``: installed packages that break each other."""

    version: str
    machine: Machine
    memory_bytes: int | None
    available_bytes: int | None
    disk_free_bytes: int | None
    extras: tuple[Extra, ...]
    probes: Mapping[str, Probe]
    backends: tuple[BackendReport, ...]
    conflicts: tuple[Problem, ...]


def examine_machine(disk: Path) -> MachineReport:
    """Look at this machine and at the free space of ``disk``. Never raises."""
    machine = detect_machine(measure_memory=True)
    probes = probe_libraries(machine)
    extras = installed_extras()
    available = available_bytes()
    return MachineReport(
        version=__version__,
        machine=machine,
        memory_bytes=total_bytes(),
        available_bytes=available,
        disk_free_bytes=_disk_free(disk),
        extras=tuple(extras.values()),
        probes=probes,
        backends=_backends(machine, extras, probes),
        conflicts=find_conflicts(machine),
    )


def _backends(
    machine: Machine, extras: Mapping[str, Extra], probes: Mapping[str, Probe]
) -> tuple[BackendReport, ...]:
    compiles = extras["export"].problems
    cpu = (*extras["cpu"].problems, *_load_problems("onnxruntime", probes))
    graphs = Ability("no" if compiles else "yes", compiles)
    return (
        BackendReport("ort cpu", graphs, _ability(cpu)),
        BackendReport("ort cuda", graphs, _ability(_ort_cuda_problems(machine, extras, probes))),
        *(
            _engine_backend(backend, machine, extras[backend], compiles, probes)
            for backend in LIBRARIES
        ),
    )


def _ort_cuda_problems(
    machine: Machine, extras: Mapping[str, Extra], probes: Mapping[str, Probe]
) -> tuple[Problem, ...]:
    problems = [*extras["gpu"].problems, *_load_problems("onnxruntime", probes)]
    if problems and "onnxruntime" in machine.packages:
        # Beside onnxruntime, onnxruntime-gpu would break it.
        remedy = "pip uninstall -y onnxruntime; then pip install 'c2c-export[gpu]'"
        problems = [Problem(problem.cause, remedy) for problem in problems]
    providers = probes["onnxruntime"].answer if "onnxruntime" in probes else None
    has_gpu_build = "onnxruntime-gpu" in machine.packages
    if has_gpu_build and isinstance(providers, list) and "CUDAExecutionProvider" not in providers:
        problems.append(
            Problem(
                f"the ONNX Runtime that is imported has no CUDA provider, only {', '.join(providers)}",
                "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'c2c-export[gpu]'",
            )
        )
    return (*problems, *_gpu_problems(machine))


def _engine_backend(
    backend: EngineBackend,
    machine: Machine,
    extra: Extra,
    compiles: tuple[Problem, ...],
    probes: Mapping[str, Probe],
) -> BackendReport:
    problems = (*extra.problems, *_load_problems(backend.replace("-", "_"), probes))
    gpu = _gpu_problems(machine)
    note = ""
    if backend == "tensorrt-rtx":
        if machine.platform not in TENSORRT_RTX_PLATFORMS:
            problems = (
                Problem(
                    f"TensorRT-RTX exists for {' and '.join(TENSORRT_RTX_PLATFORMS)}, "
                    f"not for {machine.platform}",
                    "use --backend tensorrt",
                ),
            )
        building = problems  # for named targets, so no GPU is needed
        if machine.gpus and machine.gpus[0].capability not in TENSORRT_RTX_TARGETS:
            gpu = (
                Problem(
                    f"TensorRT-RTX does not know {machine.gpus[0].name} ({machine.gpus[0].capability})"
                    f", only {', '.join(TENSORRT_RTX_TARGETS)}",
                    "use --backend tensorrt",
                ),
            )
    else:
        if problems and machine.platform == "linux-aarch64":
            cause = problems[0].cause
            problems = (
                Problem(cause, "on a Jetson, TensorRT comes with JetPack: see docs/edge.md"),
            )
        building = (*problems, *gpu)  # TensorRT tries kernels on the GPU that it builds for
        version = machine.library_version(backend)
        if version and len(dialects_for(backend, version)) == 1:
            note = f"TensorRT {version} builds from graphs of the dialect tensorrt-scatter only"
    if building:
        build = Ability("no", building)
    else:
        build = Ability("engines", compiles) if compiles else Ability("yes")
    return BackendReport(backend, build, _ability((*problems, *gpu)), note)


def _ability(problems: tuple[Problem, ...]) -> Ability:
    return Ability("no" if problems else "yes", problems)


def _gpu_problems(machine: Machine) -> tuple[Problem, ...]:
    if machine.gpus:
        return ()
    return (machine.no_gpu or Problem("no GPU was found"),)


def _load_problems(module: str, probes: Mapping[str, Probe]) -> tuple[Problem, ...]:
    found = probes.get(module)
    if found is None or found.failure is None:
        return ()
    return (
        Problem(f"{module} cannot be loaded: {found.failure}", "reinstall it, and what it names"),
    )


def _disk_free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path if path.exists() else Path()).free
    except OSError:
        return None
