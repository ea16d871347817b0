"""How a pair is to be built: what the command line, or a program, asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from c2c_export.building.build_target import CPU, BuildTarget
from c2c_export.pair.asked import Alignment, AskedLimits
from c2c_runtime.errors import UsageError


@dataclass(frozen=True)
class BuildOptions:
    """``with_baselines``: let every Sharer answer by itself, too, for comparison.
    ``use_cache``: take stages that were run before from the user's cache, and keep those that are run.
    ``max_build_memory_bytes`` None: as much as the machine has left. Raises ``UsageError`` for baselines
    where engines answer."""

    target: BuildTarget = CPU
    alignment: Alignment = "auto"
    limits: AskedLimits = field(default_factory=AskedLimits)
    max_build_memory_bytes: int | None = None
    verify: bool = True
    force: bool = False
    with_baselines: bool = False
    use_cache: bool = True

    def __post_init__(self) -> None:
        if self.with_baselines and self.target.backend != "ort":
            raise UsageError(
                f"baselines are answered with ONNX Runtime, not with engines of {self.target.backend}",
                "leave --with-baselines out, or build them with --backend ort (--target cpu or cuda)",
            )
