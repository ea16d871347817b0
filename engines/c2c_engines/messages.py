"""What TensorRT says while it works, kept for the error of a build that fails."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
_NUM_KEPT = 200


@dataclass
class Messages:
    """The last messages of a build, oldest first, and the sizes that TensorRT mentioned."""

    kept: deque[tuple[Severity, str]] = field(default_factory=lambda: deque(maxlen=_NUM_KEPT))
    weights_bytes: int | None = None
    activation_bytes: tuple[int, ...] = ()  # one a profile, in their order

    def add(self, severity: Severity, text: str) -> None:
        """Keep a message; numbers of interest are read from it."""
        # int64 inputs are bound as int64 by contract (runtime/names.py).
        if severity != "info" and not text.endswith("has Int64 binding."):
            self.kept.append((severity, text))
        if match := re.search(r"Total Weights Memory: (\d+) bytes", text):
            self.weights_bytes = int(match[1])
        elif match := re.search(r"Total Activation Memory: (\d+) bytes", text):
            self.activation_bytes += (int(match[1]),)

    def of(self, severity: Severity) -> list[str]:
        """The messages of one severity, each once."""
        return list(dict.fromkeys(text for kind, text in self.kept if kind == severity))

    def tail(self) -> str:
        """The errors, or where there is none the warnings, as the end of an error's text."""
        said = self.of("error") or self.of("warning")
        return (
            "".join(f"\n    TensorRT: {text}" for text in said[-8:]) or " (TensorRT said nothing)"
        )


def message_logger(trt: Any, messages: Messages) -> Any:
    """An ``ILogger`` that fills ``messages``. Keep it alive as long as anything built with it."""
    severities: dict[Any, Severity] = {
        trt.ILogger.Severity.INTERNAL_ERROR: "error",
        trt.ILogger.Severity.ERROR: "error",
        trt.ILogger.Severity.WARNING: "warning",
        trt.ILogger.Severity.INFO: "info",
    }

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in severities:
                messages.add(severities[severity], text)

    return Logger()
