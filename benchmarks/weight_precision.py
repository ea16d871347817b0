"""What weights in few bits cost the demo pair's Receiver, alone: perplexity, greedy agreement, cosine.

    python -m benchmarks.weight_precision [--text docs/semantics.md]

Eager PyTorch in fp32, with every matrix of a product replaced by what the graphs hold of it: those for
GPUs (``quantize``), then those for CPUs (``quantize_blocks``). CPUs round the other side of a product to
8 bits, too, which is not among it: ``c2c-export verify`` measures all of it. The text is that of ``build``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from c2c_export.pair.demo import smollm2_gguf
from c2c_export.passes.matmul_nbits import MODEL_BLOCK
from c2c_export.passes.quantize_blocks import quantize_blocks, quantize_table
from c2c_export.passes.quantize_weights import quantize
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model
from c2c_export.yardstick.loss_text import paragraphs
from c2c_runtime.bundle.precision import Weights

KINDS: tuple[Weights, ...] = ("int8", "fp8", "int4")
CPU_KINDS: tuple[Weights, ...] = ("int8", "int4")
FEED_ATTENTION = ("q_proj", "k_proj", "v_proj")


def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=ids).logits[0].numpy()


def perplexity(logits: np.ndarray, ids: torch.Tensor) -> float:
    loss = nn.functional.cross_entropy(torch.from_numpy(logits[:-1]), ids[0, 1:])
    return float(loss.exp())


def for_gpu(rows: np.ndarray, kind: Weights, *, is_head: bool, name: str) -> np.ndarray:
    """What graphs for GPUs hold of ``rows`` [outputs, inputs]."""
    kept = "int8" if is_head and kind == "int4" else kind
    return quantize(rows.T.astype(np.float16), kept).dequantized().T


def for_cpu(rows: np.ndarray, kind: Weights, *, is_head: bool, name: str) -> np.ndarray:
    """What graphs for CPUs hold of it."""
    num_outputs, num_inputs = rows.shape
    if is_head:  # the embedding table
        return quantize_table(rows, MODEL_BLOCK).dequantized(num_inputs)
    keeps_8 = num_inputs > num_outputs or name.endswith(FEED_ATTENTION)
    bits = 8 if kind == "int8" or keeps_8 else 4
    return quantize_blocks(rows, bits, MODEL_BLOCK).dequantized(num_inputs)


def quantized(model: PreTrainedModel, kind: Weights, graphs) -> PreTrainedModel:
    """Every linear layer's weight replaced, the LM head's included; the embedding stays on GPUs."""
    head = model.get_output_embeddings()
    if graphs is for_gpu:
        head.weight = nn.Parameter(head.weight.detach().clone())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            rows = module.weight.detach().numpy()
            restored = graphs(rows, kind, is_head=module is head, name=name)
            module.weight.data.copy_(torch.from_numpy(np.ascontiguousarray(restored)))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--text", type=Path, help="A text file. Default: the text of `build`.")
    args = parser.parse_args()
    source = resolve_model(str(smollm2_gguf()))
    tokenizer = AutoTokenizer.from_pretrained(source.directory, gguf_file=source.gguf_file)
    text = " ".join(args.text.read_text().split()) if args.text else paragraphs()
    ids = torch.tensor([tokenizer(text)["input_ids"][: args.tokens]])
    full = logits_of(load_model(source), ids)
    table = Table("weights", "perplexity", "of fp32", "same best token", "cosine, mean and least")
    table.add_row("fp32", f"{perplexity(full, ids):.2f}", "", "", "")
    rows = [(kind, for_gpu) for kind in KINDS] + [(kind, for_cpu) for kind in CPU_KINDS]
    for kind, graphs in rows:
        logits = logits_of(quantized(load_model(source), kind, graphs), ids)
        cosines = (
            (logits * full).sum(1) / np.linalg.norm(logits, axis=1) / np.linalg.norm(full, axis=1)
        )
        ratio = perplexity(logits, ids) / perplexity(full, ids)
        same = float(np.mean(logits.argmax(1) == full.argmax(1)))
        table.add_row(
            f"{kind} {graphs.__name__.replace('_', ' ')}",
            f"{perplexity(logits, ids):.2f}",
            f"{ratio:.3f}",
            f"{same:.1%}",
            f"{cosines.mean():.4f}, {cosines.min():.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
