"""A Sharer that can answer by itself: the whole model as a graph, and what eager computes with it.

The Sharer's graph for C2C is cut and has no LM head; this one is made from the model as it was loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from c2c_export.building.build_report import GraphReport
from c2c_export.building.graph_site import GraphSite
from c2c_export.graphs.export_model import export_receiver
from c2c_export.graphs.graph_cost import ModelCost, linear_operations
from c2c_export.lowering.tracing import capture_attention
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reading.checkpoints import eos_ids, load_model, read_config
from c2c_export.yardstick.golden import TEXT, plan_cases, receiver_expectation
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import BaselineSpec, GoldenSpec, Pair


@dataclass(frozen=True)
class BuiltBaseline:
    """What the manifest says of it, and what its graph is against the Sharer."""

    spec: BaselineSpec
    report: GraphReport


def build_baseline(prepared: PreparedPair, number: int, site: GraphSite) -> BuiltBaseline:
    """The graph of Sharer ``number`` (from 1) and its golden cases."""
    source = prepared.source.sharers[number - 1]
    role = names.baseline(number)
    options = site.options(role)
    dims = prepared.pair.sharers[number - 1].dims
    model = load_model(source)
    golden = _golden(prepared, number, model, site.golden_directory, str(options.precision))
    before = ModelCost(model.num_parameters(), linear_operations([model]))
    capture_attention(model)
    spec = export_receiver(model, dims, site.directory, options, role)
    graph = site.built(spec, before, ["the whole Sharer, for modes sharer and t2t"])
    eos = eos_ids(source, read_config(source))
    return BuiltBaseline(BaselineSpec(number, spec, eos, golden), graph.report)


def _golden(
    prepared: PreparedPair, number: int, model: PreTrainedModel, directory: Path, precision: str
) -> tuple[GoldenSpec, ...]:
    """The cases of a pair whose Receiver is the Sharer and that has no Sharers."""
    alone = Pair(prepared.pair.name, prepared.pair.sharers[number - 1].dims, ())
    tokenizer = prepared.tokenizers.get(names.sharer(number))
    ids: Sequence[int] | None = None
    if tokenizer is not None:
        ids = list(tokenizer.encode(TEXT, add_special_tokens=False))
    golden = []
    for case in plan_cases(alone, prepared.limits, ids, (), precision):
        stored = replace(case, name=f"{names.baseline(number)}-{case.name}")  # names a file, too
        spec = receiver_expectation(stored, alone, model, (), (), directory, precision)
        golden.append(replace(spec, name=f"Sharer {number} alone, {case.name}"))
    return tuple(golden)
