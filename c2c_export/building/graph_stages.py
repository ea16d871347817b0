"""The stages of one model each: what eager computes with it, then its graph, or both from the cache.

A model is loaded at most once a stage, and not at all where the cache holds what it would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from c2c_export.building.eager_stages import (
    LoadFusers,
    LoadModel,
    StoredCaches,
    run_chain,
    run_loss_text,
    run_sharer,
)
from c2c_export.building.graph_site import BuiltGraph, GraphSite
from c2c_export.building.kept_stages import KeptStages, MadeGraph
from c2c_export.building.once import Once
from c2c_export.fusers.fuser_checkpoint import LinkedLayers
from c2c_export.graphs.export_fuser import export_fuser
from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.graphs.graph_cost import ModelCost, linear_operations
from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.lowering.tracing import capture_attention
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.weight_headers import num_parameters
from c2c_export.yardstick.golden import GoldenCase, golden_spec
from c2c_export.yardstick.loss_reference import (
    PlannedLoss,
    first_tokens,
    loss_tokens,
    plan_loss,
)
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GoldenSpec, ModelDims
from c2c_runtime.machine.process_memory import release_memory


@dataclass(frozen=True)
class BuiltSharer:
    """``graph``: None where nothing reads its caches. ``caches``: what eager computes of each case."""

    graph: BuiltGraph | None
    caches: StoredCaches


@dataclass(frozen=True)
class BuiltReceiver:
    """The graph, the golden cases that lie beside it, and the loss to measure (None: nothing is lost, or
    nobody asked)."""

    graph: BuiltGraph
    golden: tuple[GoldenSpec, ...]
    loss: PlannedLoss | None


def build_sharer(
    prepared: PreparedPair,
    number: int,
    cases: Sequence[GoldenCase],
    site: GraphSite,
    kept: KeptStages,
) -> BuiltSharer:
    """Sharer ``number`` (from 1): its part of the cases, and its graph."""
    link, source = prepared.pair.sharers[number - 1], prepared.source.sharers[number - 1]
    role, num_layers = names.sharer(number), link.num_cached_layers
    load = Once(partial(load_model, source))
    caches = run_sharer(source, number, cases, load, kept)
    if not num_layers:
        return BuiltSharer(None, caches)

    def export(folder: Path, options: GraphOptions) -> MadeGraph:
        model = load()
        before = _cost_of(model)
        capture_attention(model)
        spec = export_sharer(model, link.dims, num_layers, role, folder, options)
        cut = link.dims.num_layers - num_layers
        why = (
            f"no LM head, no final norm, nothing past the keys and values of layer {num_layers - 1}"
        )
        return MadeGraph(spec, before, (why + (f" ({cut} layers more)" if cut else ""),))

    read = {
        "model": kept.digests.of_model(source.directory, source.gguf_file),
        "num_layers": num_layers,
    }
    return BuiltSharer(kept.graph(site, role, read, export), caches)


def build_fuser(
    prepared: PreparedPair, load_fusers: LoadFusers, site: GraphSite, kept: KeptStages
) -> BuiltGraph | None:
    """The Fuser of all Sharers; None if every gate is closed."""
    pair = prepared.pair
    gates = [gate for sharer in pair.sharers for gate in sharer.gates]
    if not any(gates):
        return None

    def export(folder: Path, options: GraphOptions) -> MadeGraph:
        fusers = load_fusers()
        layers = [{layer: module for layer, (_, module) in fuser.items()} for fuser in fusers]
        spec = export_fuser(pair, layers, folder, options)
        assert spec is not None
        modules = {id(module): module for fuser in layers for module in fuser.values()}
        before = ModelCost(
            sum(p.numel() for module in modules.values() for p in module.parameters()),
            linear_operations(module for fuser in layers for module in fuser.values()),
        )
        closed = gates.count(False)
        why = (f"{closed} of {len(gates)} gates closed",) if closed else ()
        return MadeGraph(spec, before, why)

    read = {
        "fusers": [kept.digests.of_folder(fuser.path) for fuser in prepared.fusers],
        "receiver": pair.receiver,
        "sharers": pair.sharers,
        "multi_sharer": pair.multi_sharer,
    }
    return kept.graph(site, names.FUSER, read, export)


def build_receiver(
    prepared: PreparedPair,
    cases: Sequence[GoldenCase],
    sharers: Sequence[BuiltSharer],
    fusers: Once[list[LinkedLayers]],
    site: GraphSite,
    kept: KeptStages,
    *,
    with_loss: bool,
) -> BuiltReceiver:
    """What the whole eager chain computes of the cases, and the Receiver's graph.

    ``fusers`` are forgotten before anything is traced, which needs the room.
    ``with_loss``: also what eager computes on the text that the loss of few bits is measured on.
    """
    source = prepared.source.receiver
    load = Once(partial(load_model, source))
    outcomes = run_chain(
        prepared.pair,
        [source, *prepared.source.sharers],
        cases,
        [sharer.caches for sharer in sharers],
        prepared.fusers,
        site.golden_directory,
        load,
        fusers,
        kept,
    )
    fusers.forget()
    release_memory()
    lossiest = site.target.precision.lossiest
    golden = tuple(
        golden_spec(case, outcome, lossiest) for case, outcome in zip(cases, outcomes, strict=True)
    )
    loss = _loss(prepared, site, load, kept) if with_loss else None
    graph = speaking_graph(
        load,
        kept.digests.of_model(source.directory, source.gguf_file),
        prepared.pair.receiver,
        names.RECEIVER,
        site,
        kept,
        "logits of the last position only",
    )
    return BuiltReceiver(graph, golden, loss)


def speaking_graph(
    load: LoadModel,
    digests: dict[str, str],
    dims: ModelDims,
    role: str,
    site: GraphSite,
    kept: KeptStages,
    why: str,
) -> BuiltGraph:
    """The graph of a whole model with its LM head: a Receiver, or a Sharer that answers by itself."""

    def export(folder: Path, options: GraphOptions) -> MadeGraph:
        model = load()
        before = _cost_of(model)
        capture_attention(model)
        return MadeGraph(export_receiver(model, dims, folder, options, role), before, (why,))

    return kept.graph(site, role, {"model": digests}, export)


def _loss(
    prepared: PreparedPair, site: GraphSite, load: LoadModel, kept: KeptStages
) -> PlannedLoss | None:
    """What to measure. Where no bits are lost, what the next build would have to compute is kept for it."""
    weights, dialect = site.target.precision.of(names.RECEIVER).weights, site.target.dialect
    if weights is None and dialect != "ort":
        return None
    source = prepared.source.receiver
    size = num_parameters(source.directory, source.gguf_file)
    vocab_size = prepared.pair.receiver.vocab_size
    tokens = loss_tokens(prepared, size)
    reference = run_loss_text(source, tokens, vocab_size, load, kept)
    planned = plan_loss(prepared, size, weights, dialect)
    if planned is not None:
        first_tokens(reference, len(planned.token_ids)).save(site.root / planned.path)
    return planned


def _cost_of(model: PreTrainedModel) -> ModelCost:
    return ModelCost(model.num_parameters(), linear_operations([model]))
