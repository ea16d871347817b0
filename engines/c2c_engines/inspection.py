"""A finished engine, loaded and looked into. Takes a GPU: nothing in here ever ran on one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from c2c_engines.checks import Expected
from c2c_engines.library import TensorRTLibrary
from c2c_engines.messages import Messages, message_logger
from c2c_engines.targets import current_target
from c2c_runtime.errors import Problem, UnavailableError, VerificationError


@dataclass(frozen=True)
class Inspection:
    """``aliases``: output -> input of the same memory. ``layers``: one line of JSON a layer, whose
    words are those of the TensorRT that built it."""

    aliases: dict[str, str]
    layers: tuple[str, ...]


def can_inspect(target: str) -> bool:
    """Whether the GPU of this machine is the one that an engine was built for."""
    try:
        return current_target() == target
    except UnavailableError:
        return False


def inspect_engine(library: TensorRTLibrary, path: Path) -> Inspection:
    """Load an engine on this machine's GPU and read it. Raises ``UnavailableError`` if it does not load."""
    trt, messages = library.module, Messages()
    logger = message_logger(trt, messages)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UnavailableError(
            f"the engine {path.name} does not load on this machine{messages.tail()}",
            "update the GPU's driver, or build with a TensorRT that it supports",
        )
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    aliases = {}
    if hasattr(engine, "get_aliased_input_tensor"):
        found = ((name, engine.get_aliased_input_tensor(name)) for name in names)
        aliases = {name: alias for name, alias in found if alias}
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    lines = tuple(layer if isinstance(layer, str) else json.dumps(layer) for layer in layers)
    return Inspection(aliases, lines)


def check_inspection(inspection: Inspection, expected: Expected, where: str) -> None:
    """Raise ``VerificationError`` unless every cache goes out in the memory it came in."""
    if not expected.needs_kv_updates:
        return
    problems = [
        Problem(f"{present} is not the memory of {past}: the engine copies the cache")
        for past, present in expected.caches.items()
        if inspection.aliases.get(present) != past
    ]
    if problems:
        raise VerificationError(
            f"the engine of {where} does not update its caches in place:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            "use another version of TensorRT",
        )
