"""What one engine is built from, and what came out: the types between caller, worker and builder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from c2c_engines.summary import NetworkSummary
from c2c_runtime.bundle.manifest import EngineBackend, GraphSpec, ProfileSpec
from c2c_runtime.machine.json_child import ChildModule

_STRICT = ConfigDict(extra="forbid")


@checked_dataclass(frozen=True, config=_STRICT)
class EngineRequest:
    """One engine to build. Paths are of this machine.

    ``workspace_bytes``: scratch memory that an engine may take on its GPU; None leaves the limit to
    the GPU. ``timing_cache_path``: read if it is there and written after the build, by backends that
    have one. ``detailed``: keep each layer's description in the engine, for ``inspect_engine``.
    """

    graph: GraphSpec
    graph_path: str
    engine_path: str
    backend: EngineBackend
    target: str
    precision: str
    profiles: tuple[ProfileSpec, ...]
    workspace_bytes: int | None = None
    timing_cache_path: str | None = None
    detailed: bool = False


@dataclass(frozen=True)
class EngineReport:
    """What was built. ``weights_bytes`` and ``activation_bytes`` (one a profile) are TensorRT's word,
    None and empty where it gives none. ``timing_cache``: read, new, or none (the backend has none).
    ``peak_memory_bytes`` is of the process that built, where it is known. ``inspected``: whether the
    finished engine was loaded and looked into, which takes a GPU."""

    role: str
    target: str
    backend_version: str
    size_bytes: int
    weights_bytes: int | None
    activation_bytes: tuple[int, ...]
    network: NetworkSummary
    timing_cache: str
    seconds: float
    peak_memory_bytes: int | None
    inspected: bool
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain types, the network in counts."""
        network = self.network
        counts = {
            "num_kv_updates": network.num_kv_updates,
            "num_attentions": network.num_attentions,
            "num_rotary": network.num_rotary,
            "weight_elements": network.weight_elements(),
            "constant_bytes": network.constant_bytes,
            "layer_counts": network.layer_counts,
        }
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"network": counts}


WORKER: ChildModule[EngineRequest, EngineReport] = ChildModule(
    "c2c_engines.worker", TypeAdapter(EngineRequest), TypeAdapter(EngineReport)
)
