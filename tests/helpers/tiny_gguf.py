"""Tiny checkpoints written as GGUF files, with the keys and the order of rows that llama.cpp's converter
gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from small_tokenizers import byte_level
from transformers import AutoModelForCausalLM

Write = Callable[[Any], object]


def write_gguf(
    model_dir: Path,
    path: Path,
    architecture: str,
    *also: Write,
    tensors: Mapping[str, np.ndarray] | None = None,
    name: str = "tiny",
    **options: Any,
) -> Path:
    """Write the checkpoint of ``model_dir`` (vocabulary of 424 or more) and return ``path``.

    ``architecture``: as GGUF calls it. ``also``: each is called with the writer, to add keys.
    ``tensors``: further ones. ``name``: the model's. ``options``: of ``gguf.GGUFWriter``.
    """
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    writer = gguf.GGUFWriter(str(path), architecture, **options)
    writer.add_name(name)
    _write_sizes(writer, model.config)
    _write_tokenizer(writer, model.config.vocab_size)
    for write in also:
        write(writer)
    for tensor, weight in (*_tensors(model, architecture), *(tensors or {}).items()):
        writer.add_tensor(tensor, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("rope_theta") or rope["full_attention"]["rope_theta"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, vocab_size: int) -> None:
    tokenizer = byte_level()
    texts = {id: text for text, id in tokenizer.get_vocab().items()}
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts.get(id, f"[PAD{id}]") for id in range(vocab_size)])
    writer.add_token_types([1] * vocab_size)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)


def _tensors(model: Any, architecture: str) -> Iterable[tuple[str, np.ndarray]]:
    config = model.config
    enum = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(enum, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, suffix = name.rsplit(".", 1)
        array = weight.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            is_query = "q_proj" in name
            heads = config.num_attention_heads if is_query else config.num_key_value_heads
            array = (
                array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
            )
        if architecture == "gemma3" and "norm" in name:
            array = array + 1
        yield f"{names.get_name(stem)}.{suffix}", np.ascontiguousarray(array)
