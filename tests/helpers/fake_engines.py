"""Bundles whose "engines" run on the stand-ins of ``fake_cuda``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from fake_cuda import FakeCuda, FakeTensorRT
from tiny_bundles import rehashed, resigned

from c2c_runtime.backends import cuda, trt_backend
from c2c_runtime.backends.ort_cuda_backend import OrtCudaBackend
from c2c_runtime.backends.trt_backend import TensorRTBackend
from c2c_runtime.bundle.bundle import Bundle, read_manifest
from c2c_runtime.bundle.manifest import EngineSpec, GraphSpec, Limits, ProfileSpec


def install(monkeypatch, **limits) -> tuple[FakeCuda, FakeTensorRT]:
    """Let the runtime find the stand-ins where it looks for CUDA and TensorRT."""
    fake = FakeCuda(**limits)
    fake_trt = FakeTensorRT(fake)
    monkeypatch.setattr(cuda, "import_cuda", lambda: fake)
    monkeypatch.setattr(trt_backend, "import_tensorrt", lambda backend: fake_trt)
    monkeypatch.setattr(
        trt_backend, "make_logger", lambda trt: type("Logger", (), {"messages": []})()
    )
    return fake, fake_trt


def add_engines(bundle: Path, *, is_in_place: bool = True, target: str = "sm89") -> Path:
    """Write a stand-in for an engine of every graph into ``bundle``."""
    manifest = read_manifest(bundle)
    folder = f"engines/tensorrt-rtx-1.7.1-{target}"
    (bundle / folder).mkdir(parents=True)
    specs = []
    for graph in manifest.graphs:
        profiles = _profiles(graph, manifest.limits)
        path = f"{folder}/{graph.role}.engine"
        described = {
            "onnx": str(bundle / graph.path),
            "is_in_place": is_in_place,
            "profiles": [{"shapes": profile.shapes} for profile in profiles],
        }
        (bundle / path).write_text(json.dumps(described))
        specs.append(
            EngineSpec(
                graph.role, "tensorrt-rtx", "1.7.1.116", target, "linux-x86_64", "fp32", path, profiles
            )
        )  # fmt: skip
    resigned(bundle, engines=(*manifest.engines, *specs))
    return rehashed(bundle, *(spec.path for spec in specs))


class OrtOnDevice(OrtCudaBackend):
    """ONNX Runtime's CUDA backend on the CPU: what it does with addresses is the same."""

    provider = "CPUExecutionProvider"
    device_name = "cpu"
    session_config: ClassVar = {}

    def _settings(self, stream):
        return {}


def open_engines(bundle: Bundle, **options) -> TensorRTBackend:
    engines = {spec.role: spec for spec in bundle.manifest.engines}
    return TensorRTBackend(bundle, engines, **options)


def _profiles(graph: GraphSpec, limits: Limits) -> tuple[ProfileSpec, ...]:
    most = limits.max_prompt_len

    def shapes(least: int, opt: int, most: int):
        sizes = {"tokens": (least, opt, most), "batch": (1, 1, limits.max_batch_size)}
        sizes["max_seq_len"] = (limits.max_seq_len,) * 3
        return {
            tensor.name: tuple(
                tuple(size if isinstance(size, int) else sizes[size][i] for size in tensor.shape)
                for i in range(3)
            )
            for tensor in graph.inputs
        }

    prefill = ProfileSpec("prefill", shapes(1, most, most))
    if graph.role == "receiver":
        return ProfileSpec("decode", shapes(1, 1, 1)), prefill
    return (prefill,)
