"""What a GGUF file says of a model and transformers' loader leaves out of the config.

Where the file says nothing, the rule is llama.cpp's, whose format it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from c2c_export.reading.gguf_contents import REMEDY, ROPE_FREQS
from c2c_export.reading.gguf_header import GGUFHeader, read_floats
from c2c_runtime.errors import PairError, Problem

_LAYERS_OF_GEMMA3_27B = 62  # the one Gemma 3 that scales scores by other than its head size
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # as published, Llama 3.1 to 3.3


def complete_config(config: Any, header: GGUFHeader, path: Path) -> None:
    """Write into ``config`` what the file at ``path`` says of heads, windows and rotary embedding.

    Raises PairError with every setting that cannot be applied, by the name of its key or tensor.
    """
    problems = [*_head_sizes(config, header), *_windows(config, header)]
    if not problems:
        problems += _rope(config, header, path)
    if problems:
        raise PairError(f"{path} cannot be read as it is meant", problems)


def _head_sizes(config: Any, header: GGUFHeader) -> Iterator[Problem]:
    plain = config.hidden_size // config.num_attention_heads
    key_length = header.get("attention.key_length", plain)
    rotated = header.get("rope.dimension_count", key_length)
    if header.get("attention.value_length", key_length) != key_length:
        yield _refused(header, "attention.value_length", "is not attention.key_length")
    if header.architecture in ("llama", "qwen3", "gemma3"):
        config.head_dim = key_length
    elif key_length != plain:
        yield _refused(header, "attention.key_length", f"is not embedding / heads ({plain})")
    if header.architecture == "phi3":
        config.rope_parameters["partial_rotary_factor"] = rotated / key_length
    elif rotated != key_length:
        yield _refused(header, "rope.dimension_count", f"is not the head size ({key_length})")
    if header.architecture == "gemma3":
        is_27b = config.num_hidden_layers == _LAYERS_OF_GEMMA3_27B
        config.query_pre_attn_scalar = plain if is_27b else key_length


def _windows(config: Any, header: GGUFHeader) -> Iterator[Problem]:
    window = header.get("attention.sliding_window") or None
    if header.architecture == "gemma3":
        if window is None:
            yield Problem("the GGUF file lacks the key gemma3.attention.sliding_window", REMEDY)
        pattern = header.get("attention.sliding_window_pattern", 6)
        if not isinstance(pattern, list):
            pattern = [bool((layer + 1) % pattern) for layer in range(config.num_hidden_layers)]
        kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
        if kinds != config.layer_types:
            yield _refused(header, "attention.sliding_window_pattern", "is not every sixth layer")
    elif header.get("attention.sliding_window_pattern") is not None:
        yield _refused(header, "attention.sliding_window_pattern", "is known of gemma3 only")
    elif config.model_type == "phi3":
        config.sliding_window = window
    elif window is not None and window < header.get("context_length"):
        yield _refused(header, "attention.sliding_window", f"is no setting of {config.model_type}")


def _rope(config: Any, header: GGUFHeader, path: Path) -> Iterator[Problem]:
    """Only the layers that see everything are scaled where a model has layers of two kinds."""
    rope = config.rope_parameters
    if header.architecture == "gemma3":
        rope["sliding_attention"]["rope_theta"] = header.get("rope.freq_base_swa", 10_000.0)
        rope = rope["full_attention"]
    elif header.get("rope.freq_base_swa") is not None:
        yield _refused(header, "rope.freq_base_swa", "is known of gemma3 only")
    rope["rope_theta"] = header.get("rope.freq_base", 10_000.0)
    factor = header.get("rope.scaling.factor") or header.get("rope.scale_linear") or 1.0
    scaling = header.get("rope.scaling.type", "linear")
    if scaling == "none" or (factor == 1.0 and scaling in ("linear", "yarn")):
        pass
    elif scaling not in ("linear", "yarn") or header.architecture == "phi3":
        yield _refused(header, "rope.scaling.type", "cannot be applied")
    else:
        rope |= {"rope_type": scaling, "factor": factor}
        if scaling == "yarn":
            rope |= _yarn(header)
    if ROPE_FREQS in header.tensors:
        found = _llama3(path, header, rope["rope_theta"], config.head_dim)
        if found is None or (found and "factor" in rope):
            yield Problem(
                f"the GGUF file's tensor {ROPE_FREQS} scales rotary frequencies by another rule than "
                "Llama 3's, and cannot be applied",
                REMEDY,
            )
        else:
            rope |= found


def _yarn(header: GGUFHeader) -> dict[str, Any]:
    """llama.cpp and transformers agree on the defaults of the two betas, and on the scale of scores."""
    context = header.get("rope.scaling.original_context_length") or header.get("context_length")
    yarn = {"original_max_position_embeddings": context}
    for name in ("beta_fast", "beta_slow"):
        value = header.get(f"rope.scaling.yarn_{name}")
        yarn |= {name: value} if value is not None else {}
    return yarn


def _llama3(path: Path, header: GGUFHeader, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The parameters whose frequencies are the file's; empty if none is scaled, None if there are none.

    The file holds what each frequency is divided by. The original context is found by trial.
    """
    try:
        divisors = read_floats(path, header, ROPE_FREQS)
    except ValueError:
        return None
    if np.all(divisors == 1):
        return {}
    if len(divisors) != head_dim // 2:
        return None
    factor = float(divisors.max())
    for context in (2**power for power in range(4, 21)):
        if np.allclose(divisors, _llama3_divisors(factor, context, theta, head_dim), rtol=1e-5):
            settings = {"factor": factor, "original_max_position_embeddings": context}
            return {"rope_type": "llama3", **_LLAMA3, **settings}
    return None


def _llama3_divisors(factor: float, context: int, theta: float, head_dim: int) -> np.ndarray:
    """What Llama 3's rule divides each frequency by: ``[head_dim // 2]``."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    share = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - share) / factor + share))


def _refused(header: GGUFHeader, key: str, why: str) -> Problem:
    value = header.get(key)
    return Problem(f"the GGUF file's key {header.architecture}.{key} = {value} {why}", REMEDY)
