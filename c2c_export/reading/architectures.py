"""The one table of language models that can be compiled, and why others cannot.

Nothing else in the compiler may ask for a model type: what a part needs to know about an
architecture is a field of ``Architecture``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from c2c_runtime.errors import Problem

Windows = Literal["none", "all", "layer_types"]


@dataclass(frozen=True)
class Architecture:
    """What must be known about one supported model type.

    ``windows`` says where transformers reads which layers see a sliding window only: nowhere, a
    window set in the config holds for every layer, or ``config.layer_types`` names them.
    ``key_projection`` and ``gguf_key_projection`` name layer ``{layer}``'s k_proj weight, out
    features x in features, whose rows are the truth about the KV cache's size.
    """

    model_type: str
    windows: Windows
    key_projection: str = "model.layers.{layer}.self_attn.k_proj.weight"
    is_fused: bool = False  # key_projection holds the rows of queries, keys and values
    gguf_key_projection: str = "blk.{layer}.attn_k.weight"

    def num_projected_heads(self, config: Any) -> int:
        """Heads whose rows ``key_projection`` holds."""
        num_kv_heads = int(config.num_key_value_heads)
        return int(config.num_attention_heads) + 2 * num_kv_heads if self.is_fused else num_kv_heads

    def sliding_window(self, config: Any) -> int | None:
        """Tokens that a windowed layer sees; None where no layer is windowed."""
        window: int | None = getattr(config, "sliding_window", None)
        if self.windows == "none" or window is None:
            return None
        if self.windows == "layer_types" and "sliding_attention" not in config.layer_types:
            return None
        return window


ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("llama", windows="none"),
        Architecture("mistral", windows="all"),
        Architecture("qwen2", windows="layer_types"),
        Architecture("qwen3", windows="layer_types"),
        Architecture("gemma3_text", windows="layer_types"),
        Architecture(
            "phi3",
            windows="all",
            key_projection="model.layers.{layer}.self_attn.qkv_proj.weight",
            is_fused=True,
            gguf_key_projection="blk.{layer}.attn_qkv.weight",
        ),
        Architecture("olmo2", windows="none"),
        Architecture("smollm3", windows="layer_types"),
        Architecture("granite", windows="none"),
    )
}

_EXPERTS = "it is a mixture of experts, whose routing is not lowered to a graph"
_STATE_SPACE = "it has state-space or recurrent layers, which hold no KV cache to fuse"
_LATENT = "its multi-head latent attention caches a compressed latent, not keys and values"
_CHUNKED = "its attention is chunked"
_SINKS = "its attention has sinks"
_HEAD_SIZES = "its layers have differing head sizes"
_SOFTCAP = "its attention logits are soft-capped"
_SHARED = "its last layers share the KV caches of earlier ones"

# Known by name, so that the reason is named. A model type in neither table is simply not checked.
UNSUPPORTED: dict[str, str] = {
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "qwen3_vl_moe": _EXPERTS,
    "olmoe": _EXPERTS,
    "phimoe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "dbrx": _EXPERTS,
    "glm4_moe": _EXPERTS,
    "minimax": _EXPERTS,
    "ernie4_5_moe": _EXPERTS,
    "jetmoe": _EXPERTS,
    "deepseek": _EXPERTS,
    "gpt_oss": f"{_EXPERTS}, and {_SINKS}",
    "llama4": f"{_EXPERTS}, and {_CHUNKED}",
    "llama4_text": f"{_EXPERTS}, and {_CHUNKED}",
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "minicpm3": _LATENT,
    "kimi_linear": _STATE_SPACE,
    "mamba": _STATE_SPACE,
    "mamba2": _STATE_SPACE,
    "falcon_mamba": _STATE_SPACE,
    "jamba": _STATE_SPACE,
    "bamba": _STATE_SPACE,
    "falcon_h1": _STATE_SPACE,
    "zamba": _STATE_SPACE,
    "zamba2": _STATE_SPACE,
    "nemotron_h": _STATE_SPACE,
    "granitemoehybrid": _STATE_SPACE,
    "recurrent_gemma": _STATE_SPACE,
    "rwkv": _STATE_SPACE,
    "xlstm": _STATE_SPACE,
    "lfm2": _STATE_SPACE,
    "qwen3_next": _STATE_SPACE,
    "qwen3_5": _STATE_SPACE,
    "qwen3_5_text": _STATE_SPACE,
    "gemma2": _SOFTCAP,
    "gemma3n_text": _SHARED,
    "gemma4_text": _HEAD_SIZES,
}

# Rope types whose tables depend on the length of the sequence at hand: a graph holds one table.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope", "su")
_FIXED_ROPE = ("default", "linear", "llama3", "yarn", "proportional")

_BIDIRECTIONAL = ("use_bidirectional_attention", "bidirectional", "is_bidirectional")

_CHOOSE_ANOTHER = f"use a model of one of these types: {', '.join(ARCHITECTURES)}"


def check_architecture(config: Any) -> list[Problem]:
    """Everything about a transformers config that keeps the model from being compiled."""
    model_type = str(config.model_type)
    if model_type not in ARCHITECTURES:
        return [_unsupported(model_type, config)]
    return [*_attention_problems(model_type, config), *_rope_problems(model_type, config)]


def _unsupported(model_type: str, config: Any) -> Problem:
    inner = getattr(config, "text_config", None)
    if inner is not None:
        inner_type = getattr(inner, "model_type", "text model")
        return Problem(
            f"{model_type} is a multimodal wrapper around a language model ({inner_type})",
            f"save its language model as a checkpoint of its own (model type {inner_type}, for "
            f"example from model.language_model) and give that; {_CHOOSE_ANOTHER}",
        )
    reason = UNSUPPORTED.get(model_type, "this architecture has not been checked")
    return Problem(f"model type {model_type} is not supported: {reason}", _CHOOSE_ANOTHER)


def _attention_problems(model_type: str, config: Any) -> Iterator[Problem]:
    def refused(feature: str, setting: str) -> Problem:
        return Problem(f"this {model_type} has {feature} ({setting})", _CHOOSE_ANOTHER)

    softcap = getattr(config, "attn_logit_softcapping", None)
    if softcap is not None:
        yield refused("soft-capped attention logits", f"attn_logit_softcapping {softcap}")
    for name in _BIDIRECTIONAL:
        if getattr(config, name, None):
            yield refused("bidirectional attention", name)
    if getattr(config, "is_causal", None) is False:
        yield refused("bidirectional attention, as embedding models have", "is_causal false")
    if getattr(config, "attention_chunk_size", None):
        yield refused("chunked attention", f"attention_chunk_size {config.attention_chunk_size}")
    if getattr(config, "attention_sinks", None):
        yield refused("attention sinks", "attention_sinks")
    layer_types = getattr(config, "layer_types", None) or ()
    for unknown in sorted(set(layer_types) - {"full_attention", "sliding_attention"}):
        yield refused(f"layers of type {unknown}", "layer_types")
    architecture = ARCHITECTURES[model_type]
    if architecture.windows != "layer_types":
        kind = "sliding" if architecture.sliding_window(config) else "full"
        for other in sorted({"full_attention", "sliding_attention"} & set(layer_types)):
            if other != f"{kind}_attention":
                yield refused(f"layers of type {other}, which this type has not", "layer_types")
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
        yield Problem(
            f"the checkpoint is quantised ({method or 'quantization_config'})",
            "give the unquantised checkpoint and ask for --precision int8 or int4 instead",
        )


def _rope_problems(model_type: str, config: Any) -> Iterator[Problem]:
    for name, value in _rope_settings(getattr(config, "rope_parameters", None) or {}):
        if isinstance(value, str) and name not in ("rope_type", "type"):
            yield Problem(f"rope_parameters: {name} is {value!r}", "give a number")
    for rope_type in sorted(_rope_types(getattr(config, "rope_parameters", None) or {})):
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            yield Problem(
                f"this {model_type} has rope type {rope_type}, whose rotary table depends on the "
                "length of the sequence, so keys already cached would change their meaning",
                f"use a checkpoint whose rope type is one of {', '.join(_FIXED_ROPE)}",
            )
        elif rope_type not in _FIXED_ROPE:
            yield Problem(
                f"rope type {rope_type} is unknown",
                f"use a checkpoint whose rope type is one of {', '.join(_FIXED_ROPE)}",
            )


def _rope_settings(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name, value


def _rope_types(parameters: Mapping[str, Any]) -> set[str]:
    """The rope types of a config: one for all layers, or one for each type of layer."""
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    return {str(rope.get("rope_type", "default")) for rope in nested or [parameters]}
