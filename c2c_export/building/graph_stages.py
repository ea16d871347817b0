"""The stages that make graphs: each loads its own weights, writes, and returns what it made.

None needs another's model. What flows between them is small: the Sharers' part of the golden cases,
which the Receiver's stage carries on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from c2c_export.building.graph_site import BuiltGraph, GraphSite
from c2c_export.graphs.export_fuser import export_fuser
from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.graphs.graph_cost import ModelCost, linear_operations
from c2c_export.lowering.tracing import capture_attention
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reading.checkpoints import load_model
from c2c_export.yardstick.eager import Caches
from c2c_export.yardstick.golden import GoldenCase, receiver_expectation, sharer_expectation
from c2c_export.yardstick.loss_reference import PlannedLoss, loss_reference, plan_loss
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GoldenSpec
from c2c_runtime.machine.process_memory import release_memory


@dataclass(frozen=True)
class BuiltSharer:
    """``graph``: None where nothing reads its caches. ``caches``: what eager computes of each case."""

    graph: BuiltGraph | None
    caches: tuple[Caches, ...]


@dataclass(frozen=True)
class BuiltReceiver:
    """The graph, the golden cases that lie beside it, and the loss to measure (None: nothing is lost, or
    nobody asked)."""

    graph: BuiltGraph
    golden: tuple[GoldenSpec, ...]
    loss: PlannedLoss | None


def build_sharer(
    prepared: PreparedPair, number: int, cases: Sequence[GoldenCase], site: GraphSite
) -> BuiltSharer:
    """Sharer ``number`` (from 1): its part of the cases, then its graph."""
    link, role = prepared.pair.sharers[number - 1], names.sharer(number)
    model = load_model(prepared.source.sharers[number - 1])
    caches = tuple(sharer_expectation(case, number, model) for case in cases)
    if not link.num_cached_layers:
        return BuiltSharer(None, caches)
    before = _cost_of(model)
    capture_attention(model)
    spec = export_sharer(
        model, link.dims, link.num_cached_layers, role, site.directory, site.options(role)
    )
    cut = link.dims.num_layers - link.num_cached_layers
    why = (
        "no LM head, no final norm, nothing past the keys and values of layer "
        f"{link.num_cached_layers - 1}" + (f" ({cut} layers more)" if cut else "")
    )
    return BuiltSharer(site.built(spec, before, [why]), caches)


def build_fuser(prepared: PreparedPair, site: GraphSite) -> BuiltGraph | None:
    """The Fuser of all Sharers; None if every gate is closed."""
    fusers = prepared.load_fusers()
    spec = export_fuser(
        prepared.pair,
        [{layer: module for layer, (_, module) in fuser.items()} for fuser in fusers],
        site.directory,
        site.options(names.FUSER),
    )
    if spec is None:
        return None
    modules = {id(module): module for fuser in fusers for _, module in fuser.values()}
    before = ModelCost(
        sum(p.numel() for module in modules.values() for p in module.parameters()),
        linear_operations(module for fuser in fusers for _, module in fuser.values()),
    )
    gates = [gate for sharer in prepared.pair.sharers for gate in sharer.gates]
    closed = gates.count(False)
    return site.built(spec, before, [f"{closed} of {len(gates)} gates closed"] if closed else [])


def build_receiver(
    prepared: PreparedPair,
    cases: Sequence[GoldenCase],
    sharer_caches: Sequence[Sequence[Caches]],
    site: GraphSite,
    *,
    with_loss: bool,
) -> BuiltReceiver:
    """What the whole eager chain computes of the cases, then the Receiver's graph.

    ``sharer_caches``: of every Sharer, one entry a case. ``with_loss``: also what eager computes on the
    text that the loss of few bits is measured on, if any are lost.
    """
    model = load_model(prepared.source.receiver)
    golden = _golden(prepared, model, cases, sharer_caches, site)
    release_memory()
    loss = _loss(prepared, model, site) if with_loss else None
    before = _cost_of(model)
    capture_attention(model)
    options = site.options(names.RECEIVER)
    spec = export_receiver(model, prepared.pair.receiver, site.directory, options)
    return BuiltReceiver(
        site.built(spec, before, ["logits of the last position only"]), golden, loss
    )


def _golden(
    prepared: PreparedPair,
    receiver: PreTrainedModel,
    cases: Sequence[GoldenCase],
    sharer_caches: Sequence[Sequence[Caches]],
    site: GraphSite,
) -> tuple[GoldenSpec, ...]:
    """The Fusers are read for it, and dropped: the graph of the Receiver needs the room."""
    fusers = prepared.load_fusers()
    return tuple(
        receiver_expectation(
            case,
            prepared.pair,
            receiver,
            fusers,
            [caches[index] for caches in sharer_caches],
            site.golden_directory,
            site.target.precision.lossiest,
        )
        for index, case in enumerate(cases)
    )


def _loss(prepared: PreparedPair, receiver: PreTrainedModel, site: GraphSite) -> PlannedLoss | None:
    weights = site.target.precision.of(names.RECEIVER).weights
    planned = plan_loss(prepared, receiver.num_parameters(), weights, site.target.dialect)
    if planned is not None:
        vocab_size = prepared.pair.receiver.vocab_size
        reference = loss_reference(receiver, planned.token_ids, vocab_size)
        reference.save(site.root / planned.path)
    return planned


def _cost_of(model: PreTrainedModel) -> ModelCost:
    return ModelCost(model.num_parameters(), linear_operations([model]))
