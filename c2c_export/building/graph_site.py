"""Where the graphs of a bundle are written, how each is exported, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from c2c_export.building.build_report import GraphReport
from c2c_export.building.build_target import BuildTarget
from c2c_export.graphs.graph_cost import ModelCost, graph_cost
from c2c_export.lowering.graph_options import GraphOptions
from c2c_runtime.bundle.manifest import GraphSpec, Limits


@dataclass(frozen=True)
class BuiltGraph:
    """A graph that was written, and what it is against the model it came from."""

    spec: GraphSpec
    report: GraphReport


@dataclass(frozen=True)
class GraphSite:
    """The folder ``root`` of a bundle that is being written for ``target``."""

    root: Path
    target: BuildTarget
    limits: Limits

    @property
    def directory(self) -> Path:
        """Where graphs lie."""
        return self.root / "graphs" / self.target.dialect

    @property
    def golden_directory(self) -> Path:
        """Where golden cases lie."""
        return self.root / "golden"

    def options(self, role: str) -> GraphOptions:
        """How the graph of a role is exported."""
        return GraphOptions(self.target.dialect, self.target.precision.of(role), self.limits)

    def built(self, spec: GraphSpec, before: ModelCost, reasons: Sequence[str]) -> BuiltGraph:
        """A graph that lies here now, against ``before``, the model that it came from."""
        cost = graph_cost(self.root / spec.path)
        weights = self.target.precision.of(spec.role).weights
        why = [*reasons, *([f"weights in {weights}"] if weights else [])]
        report = GraphReport(
            spec.role,
            before.num_parameters,
            spec.num_parameters,
            before.operations,
            cost.operations,
            cost.head_operations,
            cost.num_nodes,
            ", ".join(why),
        )
        return BuiltGraph(spec, report)
