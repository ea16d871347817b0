"""What a bundle is built for: backend, targets, dialect and precision, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from c2c_export.precision import FP32, Precision, parse_precision
from c2c_runtime.engine_check import dialects_for
from c2c_runtime.errors import UnavailableError, UsageError
from c2c_runtime.machine import detect_machine
from c2c_runtime.manifest import Dialect, EngineBackend

Backend = Literal["ort", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ENGINE_DIALECTS: tuple[Dialect, ...] = ("tensorrt", "tensorrt-scatter")


@dataclass(frozen=True)
class BuildTarget:
    """``targets``: cpu, cuda, or compute capabilities (sm89) that engines are built for; none: graphs
    only, from which ``build-engines`` makes engines on the device itself."""

    backend: Backend = "ort"
    targets: tuple[str, ...] = ("cpu",)
    dialect: Dialect = "ort"
    precision: Precision = FP32

    @property
    def engine_backend(self) -> EngineBackend | None:
        """What builds engines; None if nothing does."""
        return self.backend if self.backend != "ort" and self.targets else None


CPU = BuildTarget()
_FP16 = parse_precision("fp16")


def build_target(
    backend: Backend,
    targets: Sequence[str] = (),
    *,
    precision: str | None = None,
    dialect: Dialect | None = None,
    with_engines: bool = True,
) -> BuildTarget:
    """What the command line asks for. None and nothing: what fits the rest (fp32 on a CPU, fp16 on
    GPUs, the GPU that is here).

    Raises ``UsageError`` for what does not go together, ``UnavailableError`` for what this version
    or this machine cannot build.
    """
    asked = None if precision is None else parse_precision(precision)
    if backend == "ort":
        return _for_onnxruntime(tuple(targets) or ("cpu",), asked, dialect)
    found = _for_engines(backend, tuple(targets), asked or _FP16, dialect, with_engines)
    if found.dialect == "tensorrt-scatter" and _has_int4(found.precision):
        raise UsageError(
            "TensorRT before 10.15 is given graphs without blocks of scales, so without int4 weights",
            "use int8, or --dialect tensorrt with a newer TensorRT",
        )
    return found


def _for_onnxruntime(
    targets: tuple[str, ...], precision: Precision | None, dialect: Dialect | None
) -> BuildTarget:
    if unknown := sorted(set(targets) - {"cpu", "cuda"}):
        raise UsageError(
            f"--backend ort has no target {unknown[0]}",
            "give --target cpu or cuda, or --backend tensorrt-rtx for engines",
        )
    if len(set(targets)) > 1:
        raise UsageError(
            "a bundle holds graphs for the CPU or for GPUs, not for both", "build two bundles"
        )
    if dialect is not None:
        raise UsageError("--dialect is for --backend tensorrt", "leave it out")
    if targets == ("cpu",):
        if precision not in (None, FP32):
            raise UnavailableError(
                f"on CPUs this version computes in fp32 only, not in {precision}",
                "leave --precision out",
            )
        return CPU
    # CUDA's GroupQueryAttention takes neither fp32 nor a bias; the standard operators take both.
    return BuildTarget("ort", ("cuda",), "tensorrt", precision or _FP16)


def _for_engines(
    backend: EngineBackend,
    targets: tuple[str, ...],
    precision: Precision,
    dialect: Dialect | None,
    with_engines: bool,
) -> BuildTarget:
    if not with_engines:
        if targets:
            raise UsageError("--no-engines builds for no target", "leave --target out")
        return BuildTarget(backend, (), dialect or "tensorrt", precision)
    from c2c_engines.targets import check_target

    machine = detect_machine()
    if not targets:
        if not machine.gpus:
            raise UsageError(
                "there is no GPU here to build engines for",
                "name one, such as --target sm89, or give --no-engines and build them on the device",
            )
        targets = (machine.gpus[0].capability,)
    version = machine.library_version(backend)
    if version is None:
        raise UnavailableError(
            f"{backend} is not installed",
            f"pip install 'c2c-export[{backend}]'; or give --no-engines and build them on the device",
        )
    for target in targets:
        check_target(backend, target, str(precision))
    fitting = dialects_for(backend, version)
    if dialect is not None and dialect not in fitting:
        raise UsageError(
            f"{backend} {version} builds no engines from dialect {dialect}",
            f"use --dialect {fitting[0]}",
        )
    return BuildTarget(backend, tuple(dict.fromkeys(targets)), dialect or fitting[0], precision)


def _has_int4(precision: Precision) -> bool:
    return any(own.weights == "int4" for own in (precision.default, *precision.roles.values()))
