"""From a bundle and a wish to the backend that runs it here."""

from __future__ import annotations

from typing import Literal

from c2c_runtime.backend import Backend
from c2c_runtime.bundle import Bundle
from c2c_runtime.ort_backend import OrtBackend

Device = Literal["auto", "cpu", "cuda", "tensorrt"]


def open_backend(
    bundle: Bundle,
    device: Device = "auto",
    *,
    num_threads: int | None = None,
    cuda_stream: int | None = None,
) -> Backend:
    """The backend for ``device``."""
    return OrtBackend(bundle, num_threads)
