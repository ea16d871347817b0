"""On what was measured: processor, memory, system and the versions of what took part."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from c2c_runtime.machine.machine import detect_machine, installed_version
from c2c_runtime.machine.process_memory import total_bytes

_PACKAGES = (
    "c2c-export",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-genai",
    "llama-cpp-python",
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
)


@dataclass(frozen=True)
class MachineFacts:
    """``num_cores``: those this process may use. ``load``: the system's load average over a minute
    when the run began; None where the system does not tell."""

    cpu: str
    num_cores: int
    memory_bytes: int
    system: str
    python: str
    gpus: tuple[str, ...]
    load: float | None
    versions: dict[str, str]


def machine_facts() -> MachineFacts:
    """Look at this machine."""
    found = detect_machine()
    return MachineFacts(
        cpu=_cpu(),
        num_cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        memory_bytes=total_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        gpus=tuple(f"{gpu.name} ({gpu.capability})" for gpu in found.gpus),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        versions={name: version for name in _PACKAGES if (version := installed_version(name))},
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    name = values.get("model name") or platform.machine()
    wide = [
        flag
        for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8")
        if flag in values.get("flags", "").split()
    ]
    return f"{name} ({', '.join(wide)})" if wide else name
