"""The one table of what a GGUF file can hold: what is read, what changes nothing, what is refused.

transformers' loader takes the keys and tensors that it knows and drops the others without a word. So
every key in the model's namespace and every tensor is looked up here, and what is in no table is
refused: it could change what the model computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from c2c_export.reading.gguf_header import GGUFHeader
from c2c_runtime.errors import Problem

REMEDY = "give the model's safetensors checkpoint instead"

# Keys of the architecture's namespace that are read: by transformers' loader into the config, and those
# of the second group by gguf_config.py, which writes what the loader leaves out.
_REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
)
_READ = {
    *_REQUIRED,
    "vocab_size",
    "attention.key_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}

# Keys that change nothing, whatever they say, and why.
_HARMLESS = {
    "rope.scaling.finetuned": "says how the model was trained",
    "tensor_data_layout": "names the one order of rows that llama's loader undoes",
}

# Keys that change nothing as long as they have one of these values.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "use_parallel_residual": (False,),
}

# Other namespaces, which say nothing of what the model computes: provenance, how weights were rounded,
# and text, which tokenizers.py reads.
_OTHER_NAMESPACES_REFUSED = ("adapter.", "clip.")

_LAYER = ("attn_norm", "attn_output", "ffn_norm", "ffn_down", "ffn_up")
_SPLIT = ("attn_q", "attn_k", "attn_v", "ffn_gate")
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
_TOP = ("token_embd.weight", "output_norm.weight", "output.weight")


def _weights(*names: str) -> frozenset[str]:
    return frozenset(f"{name}.weight" for name in names)


# The tensors of a layer that the loader maps to weights, by general.architecture.
_LAYER_TENSORS: Mapping[str, frozenset[str]] = {
    "llama": _weights(*_LAYER, *_SPLIT),
    "qwen2": _weights(*_LAYER, *_SPLIT) | {"attn_q.bias", "attn_k.bias", "attn_v.bias"},
    "qwen3": _weights(*_LAYER, *_SPLIT, *_HEAD_NORMS),
    "gemma3": _weights(*_LAYER, *_SPLIT, *_HEAD_NORMS, "post_attention_norm", "post_ffw_norm"),
    "phi3": _weights(*_LAYER, "attn_qkv"),
}
ROPE_FREQS = "rope_freqs.weight"  # gguf_config.py reads it
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(.+)")


def check_gguf_contents(header: GGUFHeader) -> list[Problem]:
    """Everything in a file that would be dropped although it says what the model computes.

    An architecture that is not in the table is refused by its name elsewhere.
    """
    num_parts = header.fields.get("split.count", 1)
    if num_parts > 1:
        part = f"part {header.fields.get('split.no', 0) + 1} of {num_parts}"
        merge = "join them (llama.cpp: llama-gguf-split --merge FIRST OUT), or "
        return [Problem(f"the GGUF file is split, this is {part}", merge + REMEDY)]
    kind = header.fields.get("general.type", "model")
    if kind != "model":
        merge = "merge it into its model, and " if kind == "adapter" else ""
        return [
            Problem(f"the GGUF file holds no whole model: general.type is {kind}", merge + REMEDY)
        ]
    if not header.architecture:
        return [Problem("the GGUF file lacks the key general.architecture", REMEDY)]
    if header.architecture not in _LAYER_TENSORS:
        return []
    return [*_field_problems(header), *_tensor_problems(header)]


def _field_problems(header: GGUFHeader) -> Iterator[Problem]:
    namespace = f"{header.architecture}."
    for key in _REQUIRED:
        if header.get(key) is None:
            yield Problem(f"the GGUF file lacks the key {namespace}{key}", REMEDY)
    for key, value in header.fields.items():
        own = key.removeprefix(namespace)
        if own == key:
            if key.startswith(_OTHER_NAMESPACES_REFUSED):
                yield _dropped("key", f"{key} = {_shown(value)}")
        elif own in _READ:
            if isinstance(value, list) and own != "attention.sliding_window_pattern":
                yield Problem(
                    f"layers differ: the GGUF file's key {key} is {_shown(value)}", REMEDY
                )
        elif own not in _HARMLESS and value not in _NEUTRAL.get(own, ()):
            yield _dropped("key", f"{key} = {_shown(value)}")


def _tensor_problems(header: GGUFHeader) -> Iterator[Problem]:
    layer_tensors = _LAYER_TENSORS[header.architecture]
    num_layers = header.get("block_count")
    for name in header.tensors:
        found = _LAYER_TENSOR.fullmatch(name)
        if found is not None and isinstance(num_layers, int):
            known = found[2] in layer_tensors and int(found[1]) < num_layers
        else:
            known = name in _TOP or (name == ROPE_FREQS and header.architecture == "llama")
        if not known:
            yield _dropped("tensor", name)


def _dropped(kind: str, name: str) -> Problem:
    return Problem(
        f"the GGUF file's {kind} {name} could change what the model computes, and is not read",
        REMEDY,
    )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
