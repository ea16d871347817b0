"""The two libraries of the TensorRT API, which are one API: tensorrt and tensorrt-rtx."""

from __future__ import annotations

import importlib
import re
from collections import deque
from typing import Any

from c2c_runtime.bundle.manifest import EngineBackend
from c2c_runtime.errors import UnavailableError

_NUM_KEPT = 20
_MODULES: dict[EngineBackend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def import_tensorrt(backend: EngineBackend) -> Any:
    """The library's module. ``UnavailableError`` where it is not installed or does not load."""
    try:
        module = importlib.import_module(_MODULES[backend])
        _ = module.__version__
    except ImportError as error:
        raise UnavailableError(
            f"{backend} is not installed here ({error})", how_to_install(backend)
        ) from error
    except (OSError, RuntimeError, AttributeError) as error:
        raise UnavailableError(
            f"{backend} is installed but does not load: {error}", how_to_install(backend)
        ) from error
    return module


def how_to_install(backend: EngineBackend) -> str:
    """The remedy where a library is missing."""
    command = f"pip install 'c2c-export[{backend}]'"
    if backend == "tensorrt":
        return f"{command}; on a Jetson it comes with JetPack: use the system's Python packages"
    return command


def make_logger(trt: Any) -> Any:
    """A logger of TensorRT that keeps the last warnings and errors in ``messages`` and prints nothing.

    TensorRT holds on to the first logger of a process for as long as that lives.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: deque[str] = deque(maxlen=_NUM_KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.messages.append(re.sub(r"\s+", " ", message).strip())

    return Logger()
