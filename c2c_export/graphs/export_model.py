"""Receiver and Sharer graphs, traced from the stock transformers class.

One Receiver graph serves prefill and decode step: the number of tokens is dynamic, logits are those
of the last token. A Sharer graph yields caches only: it ends at the keys and values of its highest
mapped layer, and holds neither LM head nor final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from c2c_export.graphs.export_graph import (
    Signature,
    cache_shape,
    example_cache,
    trace,
    write_graph,
)
from c2c_export.graphs.layer_kinds import layer_kinds
from c2c_export.graphs.repeat_layers import first_of_each_kind, repeat_layers
from c2c_export.graphs.repeat_parts import parameters_of, put_in_order
from c2c_export.lowering.convert_weights import convert_weights
from c2c_export.lowering.graph_options import ORT, GraphOptions
from c2c_export.lowering.operators import fuse_norms, fused_rotary
from c2c_export.lowering.rotary_tables import rotary_by_table
from c2c_export.lowering.tracing import CacheStep
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, ModelDims

Caches = list[tuple[Tensor, Tensor]]
MakeCacheStep = Callable[..., CacheStep]


class ReceiverGraph(nn.Module):
    """token ids and caches -> logits of the last token [batch, vocab_size] and the caches.

    ``layers``: numbers of those that have caches here. ``num_top``: also give the ids and values of so
    many of the largest logits; 0: do not.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache_step: MakeCacheStep,
        layers: Sequence[int],
        num_top: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.layers = layers
        self.cache_step = cache_step
        self.num_top = num_top
        # A product of [batch, hidden] with the untransposed table lets a tied embedding be stored once.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0][:, -1],))

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        past: Caches,
        key_positions: Tensor | None = None,
    ) -> tuple[list[Tensor], Caches]:
        """Shapes as in ``c2c_runtime.bundle.names``."""
        caches = dict(zip(self.layers, past, strict=True))
        step = self.cache_step(caches, positions, past_length, key_positions)
        logits = self.model(
            input_ids=token_ids, position_ids=positions, use_cache=False, cache_step=step
        ).logits.float()
        results = [logits]
        if self.num_top:
            top = logits.topk(self.num_top)
            results += [top.indices, top.values]
        return results, [step.present[layer] for layer in self.layers]


class SharerGraph(nn.Module):
    """token ids and caches -> the caches of ``layers``; of the last one nothing else is needed."""

    def __init__(
        self, model: PreTrainedModel, cache_step: MakeCacheStep, layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.decoder = model.model
        self.cache_step = cache_step
        self.layers = layers

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        past_length: Tensor,
        past: Caches,
        key_positions: Tensor | None = None,
    ) -> Caches:
        """Shapes as in ``c2c_runtime.bundle.names``."""
        caches = dict(zip(self.layers, past, strict=True))
        step = self.cache_step(
            caches, positions, past_length, key_positions, write_only_layer=self.layers[-1]
        )
        self.decoder(input_ids=token_ids, position_ids=positions, use_cache=False, cache_step=step)
        return [step.present[layer] for layer in self.layers]


def export_receiver(
    model: PreTrainedModel,
    dims: ModelDims,
    directory: Path,
    options: GraphOptions = ORT,
    role: str = names.RECEIVER,
) -> GraphSpec:
    """Write the Receiver graph of ``model``, loaded with ``attn_implementation='c2c'``. ``role``: of a
    whole Sharer, which answers with a graph like a Receiver's.

    The model object becomes what was asked for: its weights are converted to ``options.precision``.
    """
    num_top = 0 if options.dialect == "ort" else min(names.MAX_TOP_LOGITS, dims.vocab_size)
    outputs = [names.LOGITS, *([names.TOP_IDS, names.TOP_LOGITS] if num_top else [])]
    with lowered(model, options) as cache_step:
        make_graph = partial(ReceiverGraph, model, cache_step, num_top=num_top)
        traced = _trace(model, make_graph, dims, outputs, None, options)
    return write_graph(traced, role, directory, options)


def export_sharer(
    model: PreTrainedModel,
    dims: ModelDims,
    num_cached_layers: int,
    role: str,
    directory: Path,
    options: GraphOptions = ORT,
) -> GraphSpec:
    """Write the graph of a Sharer, cut after ``num_cached_layers`` layers.

    The model object is cut as well: its layers past the cut are dropped, and the others' weights
    are converted to ``options.precision``.
    """
    model.model.layers = model.model.layers[:num_cached_layers]
    model.config.num_hidden_layers = num_cached_layers
    with lowered(model, options) as cache_step:
        make_graph = partial(SharerGraph, model, cache_step)
        traced = _trace(model, make_graph, dims, [], num_cached_layers - 1, options)
    return write_graph(traced, role, directory, options)


def _trace(
    model: PreTrainedModel,
    make_graph: Callable[..., nn.Module],
    dims: ModelDims,
    outputs: list[str],
    write_only_layer: int | None,
    options: GraphOptions,
) -> ir.Model:
    """The graph of all layers, of which one of each kind is traced. ``make_graph(layers=...)``: the
    module that computes the caches of some layers."""
    layers = model.model.layers
    kinds = layer_kinds(layers, model.config, write_only_layer)
    graph = make_graph(layers=sorted(set(kinds)))
    with first_of_each_kind(layers, kinds):
        signature = _signature(dims, graph.layers, outputs, options)
        traced = trace(graph, signature, options.lowering.opset)
    repeat_layers(traced, graph, layers, kinds)
    put_in_order(traced.graph, *_names(dims, range(len(layers)), outputs), parameters_of(graph))
    return traced


@contextmanager
def lowered(model: PreTrainedModel, options: GraphOptions) -> Iterator[MakeCacheStep]:
    """Norms, rotary embedding and weights of ``model`` as the dialect and precision want them.

    Yields what makes the cache step of one call.
    """
    fuse_norms(model)
    convert_weights(model, options.dtype)
    lowering = options.lowering
    if lowering.rotary == "table":
        with rotary_by_table(model, options.num_positions) as rotary:
            yield partial(lowering.cache_step, rotary=rotary)
    elif lowering.rotary == "operator":
        with fused_rotary(model):
            yield lowering.cache_step
    else:
        yield lowering.cache_step


def _signature(
    dims: ModelDims, layers: Sequence[int], outputs: list[str], options: GraphOptions
) -> Signature:
    batch, tokens = Dim("batch", min=1), Dim("tokens", min=1)
    cache_dims = cache_shape(options)
    caches = [(example_cache(dims, options), example_cache(dims, options)) for _ in layers]
    max_seq_len = caches[0][0].shape[2]
    token_ids = torch.zeros(2, 5, dtype=torch.int64)
    positions = torch.arange(5).expand(2, 5).contiguous()
    past_length = torch.zeros(2, dtype=torch.int64)
    args: list[object] = [token_ids, positions, past_length, caches]
    shapes: list[object] = [
        {0: batch, 1: tokens},
        {0: batch, 1: tokens},
        {0: batch},
        [(cache_dims, cache_dims)] * len(caches),
    ]
    if dims.sliding_window is not None:
        args.append(torch.zeros(2, max_seq_len, dtype=torch.int64))
        shapes.append({0: batch} | ({1: cache_dims[2]} if 2 in cache_dims else {}))
    inputs, outputs = _names(dims, layers, outputs)
    return Signature(tuple(args), tuple(shapes), inputs, outputs)


def _names(
    dims: ModelDims, layers: Sequence[int], outputs: list[str]
) -> tuple[list[str], list[str]]:
    """All inputs and outputs of a graph with the caches of ``layers``, in its order."""
    pasts = [names.past(layer, kind) for layer in layers for kind in names.KINDS]
    presents = [names.present(layer, kind) for layer in layers for kind in names.KINDS]
    inputs = [names.TOKEN_IDS, names.POSITIONS, names.PAST_LENGTH, *pasts]
    inputs += [names.KEY_POSITIONS] if dims.sliding_window is not None else []
    return inputs, [*outputs, *presents]
