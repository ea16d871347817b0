"""The difference between ``tensorrt`` and ``tensorrt_rtx``: all of it is in here.

Both have the same Python API. What a version can do is asked of the library itself where that is
possible, so that no list of versions has to be kept. Polygraphy is not between us and the library:
it picks one of the two for the whole process, from an environment variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from c2c_runtime.backends.trt import how_to_install, import_tensorrt
from c2c_runtime.bundle.manifest import Dialect, EngineBackend
from c2c_runtime.errors import UnavailableError

_OLDEST: dict[EngineBackend, tuple[int, ...]] = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 0)}


@dataclass(frozen=True)
class TensorRTLibrary:
    """An imported TensorRT. ``module`` is the library; ``version`` as it says it (1.7.1.116)."""

    name: EngineBackend
    version: str
    module: Any

    @property
    def builds_for_absent_gpus(self) -> bool:
        """Whether targets are named, and no GPU is needed; else the GPU that is here is the target."""
        return hasattr(self.module.IBuilderConfig, "set_compute_capability")

    @property
    def nameable_targets(self) -> tuple[str, ...]:
        """Targets that can be built for without having them: ``sm75``, ``sm80``, ..."""
        if not self.builds_for_absent_gpus:
            return ()
        members = self.module.ComputeCapability.__members__
        found = [name.lower() for name in members if re.fullmatch(r"SM\d+", name)]
        return tuple(sorted(found, key=lambda name: int(name[2:])))

    @property
    def dialect(self) -> Dialect:
        """The dialect of the graphs that this version reads."""
        network = self.module.INetworkDefinition
        has_both = hasattr(network, "add_kv_cache_update") and hasattr(network, "add_attention")
        return "tensorrt" if has_both else "tensorrt-scatter"

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings are worth keeping: in TensorRT-RTX, which times nothing at build, since 1.2
        everything about timing caches does nothing."""
        return self.name == "tensorrt"

    @property
    def min_max_batch(self) -> int:
        """Rows that a profile has to allow at least, whatever the bundle's limits say.

        TensorRT-RTX 1.7 gives products of a single row kernels and weights of their own: every fp16
        weight is in the engine twice, and int8 and fp8 weights are unpacked to scratch memory at every
        decode step. With a range from one row to two neither happens.
        """
        return 2 if self.name == "tensorrt-rtx" else 1

    def create_network(self, builder: Any) -> Any:
        """An empty network in which types are what the graph says."""
        # TensorRT 10 and TensorRT-RTX have the flag; where it is gone, every network is strongly typed.
        flags = self.module.NetworkDefinitionCreationFlag.__members__
        flag = flags.get("STRONGLY_TYPED")
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def set_target(self, config: Any, target: str) -> None:
        """Make ``config`` build for ``target``. Raises ``UnavailableError`` if the library refuses."""
        if not self.builds_for_absent_gpus:
            return
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(
            self.module.ComputeCapability.__members__[target.upper()], 0
        ):
            raise UnavailableError(
                f"{self} does not build for {target}",
                f"choose from {', '.join(self.nameable_targets)}",
            )

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def load_library(name: EngineBackend) -> TensorRTLibrary:
    """Import a TensorRT. Raises ``UnavailableError`` if it is not installed, broken or too old."""
    module = import_tensorrt(name)
    version = str(module.__version__)
    oldest = _OLDEST[name]
    if _numbers(version) < oldest:
        raise UnavailableError(
            f"{name} {version} is too old: {'.'.join(map(str, oldest))} is the oldest that is known to work",
            how_to_install(name),
        )
    return TensorRTLibrary(name, version, module)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
