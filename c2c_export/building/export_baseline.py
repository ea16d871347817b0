"""A Sharer that can answer by itself: the whole model as a graph, and what eager computes with it.

The Sharer's graph for C2C is cut and has no LM head; this one is made from the model as it was loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from c2c_export.building.build_report import GraphReport
from c2c_export.building.eager_stages import run_chain
from c2c_export.building.graph_site import GraphSite
from c2c_export.building.graph_stages import speaking_graph
from c2c_export.building.kept_stages import KeptStages
from c2c_export.building.once import Once
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reading.checkpoints import load_model, read_config
from c2c_export.reading.end_of_turn import eos_ids
from c2c_export.reading.weight_headers import num_parameters
from c2c_export.yardstick.golden import TEXT, GoldenCase, golden_spec, plan_cases
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import BaselineSpec, Pair


@dataclass(frozen=True)
class BuiltBaseline:
    """What the manifest says of it, and what its graph is against the Sharer."""

    spec: BaselineSpec
    report: GraphReport


def build_baseline(
    prepared: PreparedPair, number: int, site: GraphSite, kept: KeptStages
) -> BuiltBaseline:
    """The graph of Sharer ``number`` (from 1) and its golden cases: those of a pair whose Receiver is the
    Sharer and that has no Sharers."""
    source, role = prepared.source.sharers[number - 1], names.baseline(number)
    dims = prepared.pair.sharers[number - 1].dims
    load = Once(partial(load_model, source))
    alone = Pair(prepared.pair.name, dims, ())
    cases = _cases(prepared, number, alone)
    outcomes = run_chain(alone, [source], cases, (), (), site.golden_directory, load, list, kept)
    precision = str(site.target.precision.of(role))
    golden = tuple(
        replace(
            golden_spec(case, outcome, precision),
            name=f"Sharer {number} alone, {case.name.removeprefix(f'{role}-')}",
        )
        for case, outcome in zip(cases, outcomes, strict=True)
    )
    digests = kept.digests.of_model(source.directory, source.gguf_file)
    why = "the whole Sharer, for modes sharer and t2t"
    graph = speaking_graph(load, digests, dims, role, site, kept, why)
    eos = eos_ids(source, read_config(source), prepared.tokenizers.get(names.sharer(number)))
    return BuiltBaseline(BaselineSpec(number, graph.spec, eos, golden), graph.report)


def _cases(prepared: PreparedPair, number: int, alone: Pair) -> list[GoldenCase]:
    """With names of their own, because they name files, too."""
    tokenizer = prepared.tokenizers.get(names.sharer(number))
    ids: Sequence[int] | None = None
    if tokenizer is not None:
        ids = list(tokenizer.encode(TEXT, add_special_tokens=False))
    role = names.baseline(number)
    source = prepared.source.sharers[number - 1]
    size = num_parameters(source.directory, source.gguf_file)
    cases = plan_cases(alone, prepared.limits, ids, (), size)
    return [replace(case, name=f"{role}-{case.name}") for case in cases]
