"""Which GPU an engine is for, and whether a backend can build for it in a precision.

Everything here is asked before a build, because the builder's own answer comes late and names
neither the option nor the way out.
"""

from __future__ import annotations

import re

from c2c_engines.library import TensorRTLibrary
from c2c_runtime.bundle.manifest import GraphSpec
from c2c_runtime.bundle.precision import Precision
from c2c_runtime.errors import UnavailableError, UsageError
from c2c_runtime.machine.machine import detect_machine

CURRENT = "current"

# The oldest compute capability that has a type, in the manifest's words.
_LEAST_HEAD_DIM, _HEAD_DIM_STEP = 16, 8  # found by building, with TensorRT-RTX 1.7
_OLDEST_TARGET = {"bf16": 80, "int4": 80, "fp8": 89}


def parse_target(text: str) -> str:
    """``sm89`` from what a user writes (``SM89``, ``sm_89``, ``8.9``), ``current`` as it is.

    Raises ``UsageError``.
    """
    written = text.strip().lower()
    if written == CURRENT:
        return CURRENT
    match = re.fullmatch(r"(?:sm_?)?(\d{2,3})|(\d{1,2})\.(\d)", written)
    if match is None:
        raise UsageError(
            f"--target {text} is no GPU architecture",
            "give smNN, as sm89 for compute capability 8.9, or current for the GPU of this machine",
        )
    return f"sm{match[1] or match[2] + match[3]}"


def current_target() -> str:
    """The compute capability of GPU 0 of this machine. Raises ``UnavailableError`` with the reason."""
    machine = detect_machine()
    if not machine.gpus:
        why = machine.no_gpu.cause if machine.no_gpu else "none was found"
        raise UnavailableError(
            f"no GPU is here ({why})",
            "name the GPU with --target smNN and use --backend tensorrt-rtx, which needs none to build",
        )
    return machine.gpus[0].capability


def resolve_targets(library: TensorRTLibrary, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The compute capabilities to build for, each once, in the order given.

    None given, or ``current``: this machine's GPU. Raises ``UsageError`` for what is no target and
    ``UnavailableError`` for what this library cannot build for here.
    """
    parsed = [parse_target(target) for target in targets or (CURRENT,)]
    found = dict.fromkeys(current_target() if name == CURRENT else name for name in parsed)
    for target in found:
        _check_target(library, target)
    return tuple(found)


def check_precision(
    library: TensorRTLibrary, target: str, precision: str, graph: GraphSpec
) -> None:
    """Raise ``UnavailableError`` if ``target`` lacks a type that ``graph`` computes or stores in.

    ``precision``: of this graph alone.
    """
    has_bf16 = any(tensor.dtype == "bfloat16" for tensor in (*graph.inputs, *graph.outputs))
    for needed in (precision, "bf16" if has_bf16 else precision):
        _check_type(target, needed)
    if precision == "fp32" and has_caches(graph):
        _check_fp32(library)


def check_bundle_precision(library: TensorRTLibrary, target: str, precision: Precision) -> None:
    """The same for a pair whose graphs are not there yet."""
    for own in (precision.default, *precision.roles.values()):
        _check_type(target, own.activations)
        _check_type(target, str(own))
    if precision.activations == "fp32":
        _check_fp32(library)


def check_head_dim(library: TensorRTLibrary, head_dim: int, whose: str) -> None:
    """Raise ``UnavailableError`` if there is no fused attention of so many elements a head."""
    is_known = head_dim >= _LEAST_HEAD_DIM and head_dim % _HEAD_DIM_STEP == 0
    if library.dialect == "tensorrt" and not is_known:
        raise UnavailableError(
            f"{library} has no fused attention for heads of {head_dim} elements, which {whose} has",
            f"multiples of {_HEAD_DIM_STEP} from {_LEAST_HEAD_DIM} on can be built; --backend ort takes any",
        )


def _check_type(target: str, needed: str) -> None:
    oldest = _OLDEST_TARGET.get(needed, 0)
    if int(target[2:]) < oldest:
        raise UnavailableError(
            f"{target} has no {needed}: it takes sm{oldest} or newer",
            "build the bundle with --precision fp16 or int8 for this GPU",
        )


def _check_fp32(library: TensorRTLibrary) -> None:
    if library.dialect == "tensorrt":
        raise UnavailableError(
            f"{library} has no fused attention in fp32",
            "build the bundle with --precision fp16 or bf16; --backend ort runs fp32",
        )


def has_caches(graph: GraphSpec) -> bool:
    """Whether the graph is a model with caches and attention, and not a Fuser."""
    return any(tensor.name == "token_ids" for tensor in graph.inputs)


def _check_target(library: TensorRTLibrary, target: str) -> None:
    if library.builds_for_absent_gpus:
        if target not in library.nameable_targets:
            raise UnavailableError(
                f"{library} cannot build for {target}: it builds for "
                f"{', '.join(library.nameable_targets)}",
                f"for {target} run `c2c-export build-engines BUNDLE --backend tensorrt` on a machine "
                "with that GPU",
            )
        return
    remedy = (
        "run `c2c-export build-engines BUNDLE --backend tensorrt` on the machine with that GPU, or "
        "use --backend tensorrt-rtx, which needs no GPU to build"
    )
    try:
        here = current_target()
    except UnavailableError as error:
        raise UnavailableError(
            f"{library} builds only for the GPU that is present, and {error.cause}", remedy
        ) from error
    if here != target:
        raise UnavailableError(
            f"{library} builds only for the GPU that is present, and that is {here}, not {target}",
            remedy,
        )
