"""Tiny checkpoints of the real architectures, always the same for a seed: a test's models.

Weights are large enough that logits vary and greedy text is no constant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from c2c_export.fusers.init_fuser import init_fuser
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.model_source import resolve_model

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
}
EOS_ID = 2

# What makes each architecture what it is, at tiny sizes. head_dim is never hidden / heads.
ARCHITECTURE_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 24, "layers": 7},
    "phi3": {"sliding_window": 16},
    "olmo2": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
}


def tiny_config(
    architecture: str,
    *,
    layers: int | None = None,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    vocab: int = 256,
    **config: Any,
) -> Any:
    """A transformers config. Some have no head_dim of their own: it is hidden / heads there."""
    defaults = dict(ARCHITECTURE_CONFIGS[architecture])
    num_layers = layers if layers is not None else defaults.pop("layers", 3)
    defaults.pop("layers", None)
    sizes: dict[str, Any] = {
        "num_hidden_layers": num_layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": EOS_ID,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    if architecture not in ("qwen2", "phi3", "olmo2", "smollm3", "granite"):
        sizes["head_dim"] = head_dim
    return AutoConfig.for_model(architecture, **(sizes | defaults | config))


def tiny_model(
    directory: Path,
    architecture: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Save a checkpoint and return its directory. ``config``: sizes of ``tiny_config``, then any
    field of the transformers config, for example ``rope_parameters=LLAMA3_ROPE``."""
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, **config)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                # Gemma's norms multiply by 1 + weight, all others by weight.
                center = 0.0 if architecture == "gemma3_text" else 1.0
                weight.copy_(center + 0.1 * noise)
            elif weight.ndim == 1 or "embed_tokens" in name:  # biases, large as in real Qwen2
                weight.copy_(noise)
            else:  # spreads of 1.5 after a product keep attention and greedy text lively
                weight.copy_(1.5 * noise / weight.shape[1] ** 0.5)
    model.save_pretrained(directory)
    return directory


def tiny_pair(
    directory: Path,
    receiver_arch: str = "qwen3",
    sharer_arch: str = "qwen2",
    *,
    seed: int = 0,
    receiver: dict[str, Any] | None = None,
    sharer: dict[str, Any] | None = None,
    **fuser: Any,
) -> dict[str, Path]:
    """``{"receiver": ..., "sharer": ..., "fuser": ...}``: directories of a pair that fits.

    ``receiver`` and ``sharer`` are arguments of ``tiny_model``, ``fuser`` those of ``init_fuser``.
    """
    paths = {
        "receiver": tiny_model(
            directory / "receiver", receiver_arch, seed=seed, **(receiver or {})
        ),
        "sharer": tiny_model(directory / "sharer", sharer_arch, seed=seed + 1, **(sharer or {})),
    }
    sources = [resolve_model(str(path)) for path in paths.values()]
    receiver_dims, sharer_dims = (model_dims(read_config(source), source) for source in sources)
    options: dict[str, Any] = {"hidden_dim": 32, "intermediate_dim": 40, "scale": 1.0} | fuser
    paths["fuser"] = init_fuser(
        receiver_dims, sharer_dims, directory / "fuser", seed=seed + 2, **options
    )
    return paths
