"""What weights in few bits cost the demo pair's Receiver, alone: perplexity, greedy agreement, cosine.

    python -m benchmarks.weight_precision

Eager PyTorch in fp32, with every matrix of a product replaced by what ``quantize`` makes of it, as the
graphs for GPUs hold it. The text is docs/semantics.md, which no model has been trained on.
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

from c2c_export.checkpoints import load_model, resolve_model
from c2c_export.demo import smollm2_gguf
from c2c_export.passes.quantize_weights import quantize
from c2c_runtime.precision import Weights

TEXT = Path(__file__).parent.parent / "docs" / "semantics.md"
KINDS: tuple[Weights, ...] = ("int8", "fp8", "int4")


def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=ids).logits[0].numpy()


def perplexity(logits: np.ndarray, ids: torch.Tensor) -> float:
    loss = nn.functional.cross_entropy(torch.from_numpy(logits[:-1]), ids[0, 1:])
    return float(loss.exp())


def quantized(model: PreTrainedModel, kind: Weights) -> PreTrainedModel:
    """Every linear layer's weight replaced, the LM head's included; the embedding stays."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            matrix = module.weight.detach().numpy().T.astype(np.float16)
            is_int8 = module is head and kind == "int4"
            restored = quantize(matrix, "int8" if is_int8 else kind).dequantized().T
            module.weight.data = torch.from_numpy(np.ascontiguousarray(restored))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    source = resolve_model(str(smollm2_gguf()))
    tokenizer = AutoTokenizer.from_pretrained(source.directory, gguf_file=source.gguf_file)
    text = " ".join(TEXT.read_text().split())
    ids = torch.tensor([tokenizer(text)["input_ids"][: args.tokens]])
    full = logits_of(load_model(source), ids)
    table = Table("weights", "perplexity", "of fp32", "same best token", "least cosine, a token")
    table.add_row("fp32", f"{perplexity(full, ids):.2f}", "", "", "")
    for kind in KINDS:
        logits = logits_of(quantized(load_model(source), kind), ids)
        cosines = (
            (logits * full).sum(1) / np.linalg.norm(logits, axis=1) / np.linalg.norm(full, axis=1)
        )
        ratio = perplexity(logits, ids) / perplexity(full, ids)
        same = float(np.mean(logits.argmax(1) == full.argmax(1)))
        table.add_row(
            kind,
            f"{perplexity(logits, ids):.2f}",
            f"{ratio:.3f}",
            f"{same:.1%}",
            f"{cosines.min():.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
