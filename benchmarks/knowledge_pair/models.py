"""The two tiny language models: their sizes, and their checkpoints in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SHARER: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
RECEIVER: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
}


def new_model(sizes: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model over the tokenizer's words. Weights follow torch's global seed."""
    config = AutoConfig.for_model(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> PreTrainedModel:
    """Write the checkpoint in float16; returns the model as it is read back, frozen, in float32.

    What is trained on top must see the rounded weights, which are all that others will have.
    """
    model.half().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    read: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return read.eval().requires_grad_(False)
