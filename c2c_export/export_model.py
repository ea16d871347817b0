"""Receiver and Sharer graphs, traced from the stock transformers class.

One Receiver graph serves prefill and decode step: the number of tokens is dynamic, logits are those
of the last token. A Sharer graph yields caches only: it ends at the keys and values of its highest
mapped layer, and holds neither LM head nor final norm.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from c2c_export.export_graph import Signature, example_cache, export_graph
from c2c_export.lowering_ort import OrtCacheStep
from c2c_runtime import names
from c2c_runtime.manifest import GraphSpec, ModelDims

Caches = list[tuple[Tensor, Tensor]]


class ReceiverGraph(nn.Module):
    """token ids and caches -> logits of the last token [batch, vocab_size] and the caches."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        # A product of [batch, hidden] with the untransposed table lets a tied embedding be stored once.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, -1],))

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        past: Caches,
        key_positions: Tensor | None = None,
    ) -> tuple[Tensor, Caches]:
        """Shapes as in ``c2c_runtime.names``."""
        step = OrtCacheStep(past, positions, past_length, key_positions)
        logits = self.model(
            input_ids=token_ids, position_ids=positions, use_cache=False, cache_step=step
        ).logits
        return logits, [step.present[layer] for layer in range(len(past))]


class SharerGraph(nn.Module):
    """token ids and caches -> the caches of the first ``num_cached_layers`` layers."""

    def __init__(self, model: PreTrainedModel, num_cached_layers: int) -> None:
        super().__init__()
        self.decoder = model.model
        self.num_cached_layers = num_cached_layers

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        past: Caches,
        key_positions: Tensor | None = None,
    ) -> Caches:
        """Shapes as in ``c2c_runtime.names``."""
        step = OrtCacheStep(
            past, positions, past_length, key_positions, write_only_layer=self.num_cached_layers - 1
        )
        self.decoder(input_ids=token_ids, position_ids=positions, use_cache=False, cache_step=step)
        return [step.present[layer] for layer in range(len(past))]


def export_receiver(model: PreTrainedModel, dims: ModelDims, directory: Path) -> GraphSpec:
    """Write the Receiver graph of ``model``, loaded with ``attn_implementation='c2c'``."""
    signature = _signature(dims, dims.num_layers, outputs=[names.LOGITS])
    return export_graph(ReceiverGraph(model), signature, names.RECEIVER, directory)


def export_sharer(
    model: PreTrainedModel, dims: ModelDims, num_cached_layers: int, role: str, directory: Path
) -> GraphSpec:
    """Write the graph of a Sharer, cut after ``num_cached_layers`` layers.

    The model object is cut as well: its layers past the cut are dropped.
    """
    model.model.layers = model.model.layers[:num_cached_layers]
    model.config.num_hidden_layers = num_cached_layers
    signature = _signature(dims, num_cached_layers, outputs=[])
    return export_graph(SharerGraph(model, num_cached_layers), signature, role, directory)


def _signature(dims: ModelDims, num_layers: int, outputs: list[str]) -> Signature:
    batch, tokens, capacity = Dim("batch", min=1), Dim("tokens", min=1), Dim("max_seq_len", min=1)
    caches = [(example_cache(dims), example_cache(dims)) for _ in range(num_layers)]
    max_seq_len = caches[0][0].shape[2]
    token_ids = torch.zeros(2, 5, dtype=torch.int64)
    positions = torch.arange(5).expand(2, 5).contiguous()
    past_length = torch.zeros(2, dtype=torch.int64)
    args: list[object] = [token_ids, positions, past_length, caches]
    shapes: list[object] = [
        {0: batch, 1: tokens},
        {0: batch, 1: tokens},
        {0: batch},
        [({0: batch, 2: capacity}, {0: batch, 2: capacity})] * num_layers,
    ]
    pasts = [names.past(layer, kind) for layer in range(num_layers) for kind in names.KINDS]
    presents = [names.present(layer, kind) for layer in range(num_layers) for kind in names.KINDS]
    inputs = [names.TOKEN_IDS, names.POSITIONS, names.PAST_LENGTH, *pasts]
    if dims.sliding_window is not None:
        args.append(torch.zeros(2, max_seq_len, dtype=torch.int64))
        shapes.append({0: batch, 1: capacity})
        inputs.append(names.KEY_POSITIONS)
    return Signature(tuple(args), tuple(shapes), inputs, [*outputs, *presents])
