"""The c2c-export runtime: opens a bundle and answers. Needs neither torch nor transformers.

The names below load on first use, so that importing an error class costs nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c2c_runtime.batch import Batch, answer_batch
    from c2c_runtime.conversation import Conversation
    from c2c_runtime.errors import C2CError
    from c2c_runtime.generation import Answer, Generation, GenerationOptions, Piece
    from c2c_runtime.sampling import SamplingOptions
    from c2c_runtime.section_texts import SectionText
    from c2c_runtime.session import Session

_MODULES = {
    "Answer": "generation",
    "Batch": "batch",
    "C2CError": "errors",
    "Conversation": "conversation",
    "Generation": "generation",
    "GenerationOptions": "generation",
    "Piece": "generation",
    "SamplingOptions": "sampling",
    "SectionText": "section_texts",
    "Session": "session",
    "answer_batch": "batch",
}

__all__ = [
    "Answer",
    "Batch",
    "C2CError",
    "Conversation",
    "Generation",
    "GenerationOptions",
    "Piece",
    "SamplingOptions",
    "SectionText",
    "Session",
    "answer_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
