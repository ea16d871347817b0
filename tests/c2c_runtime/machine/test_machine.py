"""What is said of a machine: GPUs where there are some, plain words where there are none."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
from fake_machines import CudaError, FakeRuntime, Properties, install

from c2c_runtime.machine import machine as module
from c2c_runtime.machine.machine import Gpu, detect_machine, installed_version, platform_name

ADA = Properties(b"NVIDIA GeForce RTX 4090", 8, 9, 24 * 2**30)
BLACKWELL = Properties(b"NVIDIA GeForce RTX 5090", 12, 0, 32 * 2**30)


def test_this_machine():
    found = detect_machine()
    assert found.platform == platform_name()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.gpus or found.no_gpu
    for name, version in found.packages.items():
        assert importlib.metadata.version(name) == version


def test_gpus_are_described_as_cuda_numbers_them(monkeypatch):
    fake = FakeRuntime((ADA, BLACKWELL), driver=13010)
    install(monkeypatch, fake)
    found = detect_machine()
    assert found.gpus == (
        Gpu(0, "NVIDIA GeForce RTX 4090", "sm89", 24 * 2**30),
        Gpu(1, "NVIDIA GeForce RTX 5090", "sm120", 32 * 2**30),
    )
    assert found.no_gpu is None
    assert (found.driver_cuda_version, found.cuda_version) == ("13.1", "12.9")

    measured = detect_machine(measure_memory=True)
    assert [gpu.free_bytes for gpu in measured.gpus] == [12 * 2**30, 16 * 2**30]
    assert fake.current == 0  # the caller's device


def test_a_gpu_in_exclusive_use_is_still_there(monkeypatch):
    install(monkeypatch, FakeRuntime((ADA,), busy=True))
    found = detect_machine(measure_memory=True)
    assert [gpu.free_bytes for gpu in found.gpus] == [None]
    assert "cudaErrorDevicesUnavailable" in found.no_gpu.cause


@pytest.mark.parametrize(
    ("runtime", "version", "cause", "remedy"),
    [
        (FakeRuntime(), None, "cuda-bindings is not installed", "c2c-export[gpu]"),
        (
            FakeRuntime(error=CudaError.cudaErrorInsufficientDriver, driver=0),
            "13.5.0",
            "no NVIDIA driver was found",
            "install NVIDIA's driver",
        ),
        (
            FakeRuntime(error=CudaError.cudaErrorInsufficientDriver, driver=12040, runtime=13050),
            "13.5.0",
            "serves CUDA 12.4, older than cuda-bindings 13.5.0 needs (CUDA 13.5)",
            "pip install 'cuda-bindings==12.*'",
        ),
        (
            FakeRuntime(error=CudaError.cudaErrorNoDevice),
            "12.9.4",
            "finds no GPU",
            "install NVIDIA's driver",
        ),
        (FakeRuntime(), "12.9.4", "finds no GPU", "install NVIDIA's driver"),
        (
            FakeRuntime(error=CudaError.cudaErrorSystemDriverMismatch),
            "12.9.4",
            "cudaErrorSystemDriverMismatch",
            "reinstall the NVIDIA driver",
        ),
        (
            RuntimeError("Failed to dlopen libcuda.so\nmore"),
            "12.6.0",
            "CUDA failed: Failed to dlopen libcuda.so",
            "reinstall the NVIDIA driver",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_why_there_is_no_gpu(monkeypatch, runtime, version, cause, remedy):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install(monkeypatch, runtime, version)
    found = detect_machine(measure_memory=True)
    assert found.gpus == ()
    assert cause in found.no_gpu.cause
    assert remedy in found.no_gpu.remedy
    assert "\n" not in found.no_gpu.cause


def test_gpus_hidden_by_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    install(monkeypatch, FakeRuntime(error=CudaError.cudaErrorNoDevice))
    found = detect_machine()
    assert "CUDA_VISIBLE_DEVICES is ''" in found.no_gpu.cause
    assert "unset CUDA_VISIBLE_DEVICES" in found.no_gpu.remedy


def test_bindings_that_do_not_import(monkeypatch):
    install(monkeypatch, FakeRuntime())
    del sys.modules["cuda.bindings"].runtime
    monkeypatch.delitem(sys.modules, "cuda.bindings.runtime", raising=False)
    assert "cuda-bindings 12.9.4 cannot be imported" in detect_machine().no_gpu.cause


def test_a_half_removed_package_is_not_installed(monkeypatch):
    def broken(_):
        raise KeyError("Version")

    monkeypatch.setattr(importlib.metadata, "version", broken)
    assert installed_version("onnxruntime") is None


@pytest.mark.parametrize(
    ("system", "processor", "name"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Windows", "AMD64", "windows-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Darwin", "arm64", "darwin-aarch64"),
    ],
)
def test_platform_names(monkeypatch, system, processor, name):
    monkeypatch.setattr(module.platform, "system", lambda: system)
    monkeypatch.setattr(module.platform, "machine", lambda: processor)
    assert platform_name() == name


def test_the_driver_says_its_version_where_linux_keeps_it(monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 23 2025\n")
    monkeypatch.setattr(module, "_DRIVER_FILES", (str(tmp_path / "none"), str(file)))
    assert detect_machine().driver_version == "570.86.10"
