"""What a build will need in memory and on disk, known before anything is traced.

A build holds one model at a time in fp32, its trace, and the Fuser. Measured with /usr/bin/time -v
(two cores, torch 2.13.0): Qwen3-0.6B <- Qwen2.5-0.5B at full size 7.0 GiB, where 8.0 are predicted;
the demo pair 3.2 GiB, where 3.3 are predicted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint
from c2c_export.reading.model_source import ModelSource
from c2c_export.reading.weight_headers import num_parameters
from c2c_runtime.errors import UnavailableError
from c2c_runtime.machine.process_memory import available_bytes

_FP32_BYTES = 4
_BASE_BYTES = 700 * 2**20  # the libraries, loaded
_MODEL_FACTOR = 2.5  # a model, what loading and tracing hold beside it
_FIXED_DISK_BYTES = 64 * 2**20  # graphs without weights, tokenizers, golden cases


@dataclass(frozen=True)
class BuildNeed:
    """Bytes at the peak of memory, and on the disk when the bundle is complete."""

    memory_bytes: int
    disk_bytes: int


def predict_need(
    models: Sequence[ModelSource],
    fusers: Sequence[FuserCheckpoint],
    num_engine_targets: int = 0,
    baselines: Sequence[ModelSource] = (),
) -> BuildNeed:
    """From the headers of weights alone. Errs on the large side.

    Engines hold their weights once more for every target, in 16 bits at most. Their builds, one after the
    other once the models are gone, take less memory than tracing did. ``baselines``: models that are
    in the bundle once more, as a whole; each is traced when the others are gone.
    """
    model_bytes = [
        _FP32_BYTES * num_parameters(model.directory, model.gguf_file) for model in models
    ]
    fuser_bytes = _FP32_BYTES * sum(fuser.num_parameters for fuser in fusers)
    engine_bytes = num_engine_targets * (sum(model_bytes) + fuser_bytes) // 2
    return BuildNeed(
        memory_bytes=int(_BASE_BYTES + _MODEL_FACTOR * max(model_bytes) + fuser_bytes),
        disk_bytes=sum(model_bytes)
        + sum(_FP32_BYTES * num_parameters(model.directory, model.gguf_file) for model in baselines)
        + fuser_bytes
        + engine_bytes
        + _FIXED_DISK_BYTES,
    )


def check_need(need: BuildNeed, target: Path, max_memory_bytes: int | None) -> None:
    """Raise ``UnavailableError`` if the build needs more than ``max_memory_bytes`` (None: than this
    machine has left), or than the disk of ``target`` has room for."""
    available = available_bytes()
    ceiling = available if max_memory_bytes is None else max_memory_bytes
    if need.memory_bytes > ceiling:
        what = "is available" if max_memory_bytes is None else "--max-build-memory allows"
        raise UnavailableError(
            f"the build may need {_gib(need.memory_bytes)} of memory; {what} {_gib(ceiling)}",
            "build on a larger machine and copy the bundle here"
            if max_memory_bytes is None
            else "raise --max-build-memory, or build on a larger machine",
        )
    free = shutil.disk_usage(target).free
    if need.disk_bytes > free:
        raise UnavailableError(
            f"the bundle needs {_gib(need.disk_bytes)} of disk; {target} has {_gib(free)} left",
            "free some space or give an -o on another disk; nothing was left behind",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
