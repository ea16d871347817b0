"""The c2c-export runtime: opens a bundle and answers. Needs neither torch nor transformers.

The names below load on first use, so that importing an error class costs nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c2c_runtime.answers.batch import Batch, answer_batch
    from c2c_runtime.answers.generation import Answer, Generation, GenerationOptions, Piece
    from c2c_runtime.answers.sampling import SamplingOptions
    from c2c_runtime.answers.session import Session
    from c2c_runtime.chain.conversation import Conversation
    from c2c_runtime.errors import C2CError
    from c2c_runtime.sections.section_texts import SectionText

_MODULES = {
    "Answer": "answers.generation",
    "Batch": "answers.batch",
    "C2CError": "errors",
    "Conversation": "chain.conversation",
    "Generation": "answers.generation",
    "GenerationOptions": "answers.generation",
    "Piece": "answers.generation",
    "SamplingOptions": "answers.sampling",
    "SectionText": "sections.section_texts",
    "Session": "answers.session",
    "answer_batch": "answers.batch",
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
