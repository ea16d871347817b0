"""The demo pair's real tokenizers, each loaded once a test run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from c2c_export.pair import demo
from c2c_export.reading.tokenizers import load_tokenizer
from c2c_runtime.errors import UnavailableError


@lru_cache
def smollm2_tokenizer() -> Any:
    """SmolLM2-135M-Instruct: byte-level BPE, ChatML template, 49152 tokens."""
    return _load(demo.smollm2_gguf)


@lru_cache
def gemma3_tokenizer() -> Any:
    """Gemma-3-270M: BPE with byte fallback, BOS, no template, 262144 tokens."""
    return _load(demo.gemma3_gguf)


def _load(find: Callable[[], Path]) -> Any:
    try:
        path = find()
    except UnavailableError as error:
        pytest.skip(str(error))
    return load_tokenizer(path.parent, path.name)
