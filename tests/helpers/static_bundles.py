"""A bundle whose graphs are of a TensorRT dialect, and a session that runs it on ONNX Runtime CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from static_graphs import NUMPY_DTYPES

from c2c_export.checkpoints import load_model
from c2c_export.export_fuser import export_fuser
from c2c_export.export_model import export_receiver, export_sharer
from c2c_export.golden import TEXT, plan_cases, receiver_expectation, sharer_expectation
from c2c_export.graph_options import GraphOptions
from c2c_export.memory import release_memory
from c2c_export.pair import PairSource
from c2c_export.prepare import prepare_pair
from c2c_export.tracing import ATTENTION
from c2c_runtime import names
from c2c_runtime.bundle import Bundle
from c2c_runtime.conversation import Conversation
from c2c_runtime.kv_cache import KVCache
from c2c_runtime.manifest import SCHEMA_VERSION, Manifest, ModelDims
from c2c_runtime.ort_backend import BoundGraph, OrtGraph
from c2c_runtime.session import Session


def static_bundle(source: PairSource, directory: Path, options: GraphOptions) -> Manifest:
    """Export a pair's graphs and golden cases into ``directory``, one model in memory at a time."""
    prepared = prepare_pair(source, "auto", options.max_seq_len)
    pair = prepared.pair
    graphs_at = directory / "graphs" / options.dialect
    text_ids, tables = None, [None] * len(pair.sharers)
    if prepared.tokenizers:
        from c2c_export.alignment import build_alignment

        receiver = prepared.tokenizers[names.RECEIVER]
        text_ids = receiver.encode(TEXT, add_special_tokens=False)
        tables = [
            None
            if link.alignment == "none"
            else build_alignment(
                receiver,
                prepared.tokenizers[names.sharer(number)],
                pair.receiver.vocab_size,
                link.dims.vocab_size,
                link.alignment,
            )
            for number, link in enumerate(pair.sharers, start=1)
        ]
    cases = plan_cases(pair, prepared.limits, text_ids, tables, options.precision)
    graphs = []
    sharer_caches = {case.name: [] for case in cases}
    for number, link in enumerate(pair.sharers, start=1):
        model = load_model(source.sharers[number - 1])
        for case in cases:
            sharer_caches[case.name].append(sharer_expectation(case, number, model))
        if link.num_cached_layers:
            model.set_attn_implementation(ATTENTION)
            role = names.sharer(number)
            graphs.append(
                export_sharer(model, link.dims, link.num_cached_layers, role, graphs_at, options)
            )
        del model
        release_memory()
    fusers = prepared.load_fusers()
    layers = [{layer: module for layer, (_, module) in fuser.items()} for fuser in fusers]
    graphs.append(export_fuser(pair, layers, graphs_at, options))
    model = load_model(source.receiver)
    golden = tuple(
        receiver_expectation(
            case,
            pair,
            model,
            fusers,
            sharer_caches[case.name],
            directory / "golden",
            options.precision,
        )
        for case in cases
    )
    del fusers, layers
    release_memory()
    model.set_attn_implementation(ATTENTION)
    graphs.append(export_receiver(model, pair.receiver, graphs_at, options))
    del model
    release_memory()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_at="",
        pair=pair,
        limits=prepared.limits,
        precision=options.precision,
        graphs=tuple(graph for graph in graphs if graph is not None),
        engines=(),
        tokenizers={},
        alignments={},
        eos_ids=prepared.eos_ids,
        golden=golden,
        tools={},
        files={},
    )


class StaticSession(Session):
    """Caches in the graphs' dtype, and memory for the outputs that only a GPU's runtime reads."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        super().__init__(Bundle(directory, manifest))

    def graph(self, role: str) -> OrtGraph:
        graph = super().graph(role)
        if not isinstance(graph, _Graph):
            graph.__class__ = _Graph
        return graph

    def conversation(self) -> Conversation:
        manifest = self.bundle.manifest
        pair = manifest.pair

        def cache(owner, dims: ModelDims, num_layers: int) -> KVCache:
            allocated = KVCache.allocate(owner, dims, num_layers, manifest.limits.max_seq_len)
            dtype = NUMPY_DTYPES[manifest.precision]
            buffers = {key: buffer.astype(dtype) for key, buffer in allocated.buffers.items()}
            return KVCache(owner, buffers, allocated.key_positions)

        return Conversation(
            self,
            cache("Receiver", pair.receiver, pair.receiver.num_layers),
            [cache("Sharer", link.dims, link.num_cached_layers) for link in pair.sharers],
        )


class _Graph(OrtGraph):
    def bind(self, inputs, outputs) -> BoundGraph:
        vocab_size = next(
            (array.shape[1] for name, array in outputs.items() if name == names.LOGITS), 0
        )
        shape = (1, min(64, vocab_size))
        top = {
            names.TOP_IDS: np.zeros(shape, np.int64),
            names.TOP_LOGITS: np.zeros(shape, np.float32),
        }
        return super().bind(inputs, top | dict(outputs))
