"""What a bundle is built for: backend, targets, dialect and precision, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from c2c_engines.library import load_library
from c2c_engines.targets import check_bundle_precision, resolve_targets
from c2c_runtime.bundle.manifest import Dialect, EngineBackend
from c2c_runtime.bundle.precision import FP32, Precision, parse_precision
from c2c_runtime.errors import UnavailableError, UsageError

BackendName = Literal["ort", "tensorrt", "tensorrt-rtx"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
ENGINE_DIALECTS: tuple[Dialect, ...] = ("tensorrt", "tensorrt-scatter")


@dataclass(frozen=True)
class BuildTarget:
    """``targets``: cpu, cuda, or compute capabilities (sm89) that engines are built for; none: graphs
    only, from which ``build-engines`` makes engines on the device itself."""

    backend: BackendName = "ort"
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
    backend: BackendName,
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
    if backend == "ort":
        return _for_onnxruntime(tuple(targets) or ("cpu",), precision, dialect)
    asked = None if precision is None else parse_precision(precision)
    found = _for_engines(backend, tuple(targets), asked or _FP16, dialect, with_engines)
    if found.dialect == "tensorrt-scatter" and _has_int4(found.precision):
        raise UsageError(
            "TensorRT before 10.15 is given graphs without blocks of scales, so without int4 weights",
            "use int8, or --dialect tensorrt with a newer TensorRT",
        )
    return found


def _for_onnxruntime(
    targets: tuple[str, ...], precision: str | None, dialect: Dialect | None
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
        asked = FP32 if precision is None else parse_precision(precision, "fp32")
        roles = (asked.default, *asked.roles.values())
        if asked.activations != "fp32" or any(own.weights == "fp8" for own in roles):
            raise UnavailableError(
                f"on CPUs graphs compute in fp32, with weights in fp32, int8 or int4, not {precision}",
                "use --precision fp32, int8 or int4, or name them by role (receiver=int4,sharer=int8)",
            )
        return BuildTarget(precision=asked)
    # CUDA's GroupQueryAttention takes neither fp32 nor a bias; the standard operators take both.
    asked = _FP16 if precision is None else parse_precision(precision)
    return BuildTarget("ort", ("cuda",), "tensorrt", asked)


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
    library = load_library(backend)
    if dialect not in (None, library.dialect):
        raise UsageError(
            f"{library} builds engines from dialect {library.dialect}",
            f"use --dialect {library.dialect}, or --no-engines and build them on the device",
        )
    resolved = resolve_targets(library, targets)
    for target in resolved:
        check_bundle_precision(library, target, precision)
    return BuildTarget(backend, resolved, library.dialect, precision)


def _has_int4(precision: Precision) -> bool:
    return any(own.weights == "int4" for own in (precision.default, *precision.roles.values()))
