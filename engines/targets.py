"""Which GPU an engine is for, and whether a backend can build for it in a precision.

Everything here is asked before a build, because the builder's own answer comes late and names
neither the option nor the way out.
"""

from __future__ import annotations

import platform
import re

from c2c_engines.backend import Backend
from c2c_runtime.errors import UnavailableError, UsageError
from c2c_runtime.manifest import GraphSpec

CURRENT = "current"

# The oldest compute capability that has a type, in the manifest's words.
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
    remedy = (
        "name the GPU with --target smNN and use --backend tensorrt-rtx, which needs none to build"
    )
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise UnavailableError(
            f"whether a GPU is here cannot be asked: {error}",
            'install cuda-bindings with `pip install "c2c-export[tensorrt]"`, or ' + remedy,
        ) from error
    attributes = driver.CUdevice_attribute
    try:
        status = driver.cuInit(0)[0]
        if int(status) != 0:
            raise UnavailableError(f"no GPU is here ({status.name})", remedy)
        status, device = driver.cuDeviceGet(0)
        if int(status) != 0:
            raise UnavailableError(f"no GPU is here ({status.name})", remedy)
        numbers = [
            driver.cuDeviceGetAttribute(attribute, device)[1]
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        ]
    except RuntimeError as error:  # what cuda-bindings raises where libcuda itself is missing
        raise UnavailableError(f"no GPU is here ({error})", remedy) from error
    return f"sm{numbers[0]}{numbers[1]}"


def host_platform() -> str:
    """Operating system and processor that an engine built here runs on: ``linux-x86_64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


def resolve_targets(backend: Backend, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The compute capabilities to build for, each once, in the order given.

    None given, or ``current``: this machine's GPU. Raises ``UsageError`` for what is no target and
    ``UnavailableError`` for what this backend cannot build for here.
    """
    parsed = [parse_target(target) for target in targets or (CURRENT,)]
    found = dict.fromkeys(current_target() if name == CURRENT else name for name in parsed)
    for target in found:
        _check_target(backend, target)
    return tuple(found)


def check_precision(backend: Backend, target: str, precision: str, graph: GraphSpec) -> None:
    """Raise ``UnavailableError`` if ``target`` lacks a type that ``graph`` computes or stores in."""
    has_bf16 = any(tensor.dtype == "bfloat16" for tensor in (*graph.inputs, *graph.outputs))
    for needed in dict.fromkeys((precision, "bf16" if has_bf16 else precision)):
        oldest = _OLDEST_TARGET.get(needed, 0)
        if int(target[2:]) < oldest:
            raise UnavailableError(
                f"{target} has no {needed}: it takes sm{oldest} or newer",
                "build the bundle with --precision fp16 or int8 for this GPU",
            )
    if precision == "fp32" and backend.dialect == "tensorrt" and has_caches(graph):
        raise UnavailableError(
            f"{backend} has no fused attention in fp32",
            "build the bundle with --precision fp16 or bf16; --backend ort runs fp32",
        )


def has_caches(graph: GraphSpec) -> bool:
    """Whether the graph is a model with caches and attention, and not a Fuser."""
    return any(tensor.name == "token_ids" for tensor in graph.inputs)


def _check_target(backend: Backend, target: str) -> None:
    if backend.builds_for_absent_gpus:
        if target not in backend.nameable_targets:
            raise UnavailableError(
                f"{backend} cannot build for {target}: it builds for "
                f"{', '.join(backend.nameable_targets)}",
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
            f"{backend} builds only for the GPU that is present, and {error.cause}", remedy
        ) from error
    if here != target:
        raise UnavailableError(
            f"{backend} builds only for the GPU that is present, and that is {here}, not {target}",
            remedy,
        )
