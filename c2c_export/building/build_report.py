"""What a build says of itself: of the pair before work starts, of everything when it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from c2c_engines.request import EngineReport
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reports.words import describe_model
from c2c_runtime.bundle.manifest import Loss
from c2c_runtime.checks.loss import loss_as_json
from c2c_runtime.checks.verification import Comparison


def echo_roles(console: Console, prepared: PreparedPair) -> None:
    """Print who is who, their sizes, and what a user should know of them."""
    pair, source = prepared.pair, prepared.source
    console.print(f"[bold]Receiver[/] {source.receiver.name}: {describe_model(pair.receiver)}")
    for sharer, model in zip(pair.sharers, source.sharers, strict=True):
        console.print(f"[bold]Sharer[/]   {model.name}: {describe_model(sharer.dims)}")
        gates = sharer.gates
        console.print(
            f"         {len(sharer.links)} layers linked, {sum(gates)} of {len(gates)} gates open, "
            f"alignment {sharer.alignment}"
        )
    for note in prepared.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)


@dataclass(frozen=True)
class GraphReport:
    """A graph against the model it came from, and why they differ.

    ``operations``: multiply-adds a token of all products with weights. ``operations_before`` has the
    LM head among them, for every position; ``head_operations`` are those that the graph spends on
    it, once a call.
    """

    role: str
    num_parameters_before: int
    num_parameters: int
    operations_before: int
    operations: int
    head_operations: int
    num_nodes: int
    why: str

    @property
    def num_removed(self) -> int:
        """Parameters that the pair does not need."""
        return max(self.num_parameters_before - self.num_parameters, 0)


@dataclass(frozen=True)
class BuildReport:
    """What a build did. ``comparisons`` is empty if it was told not to verify, or could not.
    ``peak_memory_bytes``: None where the system does not say. ``loss``: None also where the Receiver's weights lose no bits."""

    bundle: Path
    graphs: tuple[GraphReport, ...]
    engines: tuple[EngineReport, ...]
    comparisons: tuple[Comparison, ...]
    size_bytes: int
    seconds: float
    stage_seconds: dict[str, float]
    peak_memory_bytes: int | None
    loss: Loss | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self) | {
            "bundle": str(self.bundle),
            "graphs": [asdict(graph) | {"num_removed": graph.num_removed} for graph in self.graphs],
            "loss": self.loss and loss_as_json(self.loss),
            "engines": [engine.as_json() for engine in self.engines],
        }
