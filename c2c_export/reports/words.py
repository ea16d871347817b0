"""How figures and models are said, in tables and on pages alike."""

from __future__ import annotations

from c2c_runtime.bundle.manifest import ModelDims


def ms(seconds: float) -> str:
    """Milliseconds with as many digits as mean something."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def describe_model(dims: ModelDims) -> str:
    """A model's sizes in one line."""
    window = f", window {dims.sliding_window}" if dims.sliding_window else ""
    return (
        f"{dims.architecture}, {dims.num_layers} layers, {dims.num_kv_heads} KV heads x "
        f"{dims.head_dim}, vocabulary {dims.vocab_size}{window}, {dims.dtype}"
    )
