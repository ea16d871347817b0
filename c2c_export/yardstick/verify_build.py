"""The check that a build ends with: its graphs, on this machine's CPU, against eager PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from c2c_export.passes.widen_bfloat16 import WidenBfloat16
from c2c_export.yardstick.loss_reference import PlannedLoss
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import GraphSpec, LossSpec, TensorSpec
from c2c_runtime.checks.loss import check_loss, measure_loss
from c2c_runtime.checks.verification import Comparison, verify
from c2c_runtime.errors import VerificationError

_BFLOAT16 = "bfloat16"


def verify_directory(path: Path) -> tuple[Comparison, ...]:
    """Run the golden cases of a bundle; ``VerificationError`` names all that is outside tolerance.

    No CPU backend computes in bfloat16: graphs in it are checked in float32, with their weights.
    """
    with _computable(Bundle.open(path)) as bundle, Session(bundle) as session:
        comparisons = tuple(verify(session))
    _raise_failed(comparisons)
    return comparisons


def measure_directory(path: Path, planned: PlannedLoss) -> tuple[LossSpec, tuple[Comparison, ...]]:
    """Measure what few bits lose in a bundle; ``VerificationError`` if it is more than its bounds."""
    with Session(Bundle.open(path)) as session:
        spec = planned.spec(measure_loss(session, path / planned.path))
    comparisons = tuple(check_loss(spec.measured, spec))
    _raise_failed(comparisons)
    return spec, comparisons


def _raise_failed(comparisons: Sequence[Comparison]) -> None:
    failed = [item for item in comparisons if not item.ok]
    if failed:
        lines = [
            f"  - {item.name}: max abs {item.max_abs:.3g}, max rel {item.max_rel:.3g}; {item.bound}"
            for item in failed
        ]
        raise VerificationError(
            "\n".join(["the graphs do not compute what eager PyTorch computes:", *lines]),
            "no bundle was written; report the pair, or look at it with --no-verify",
        )


@contextmanager
def _computable(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle itself, or one whose bfloat16 graphs are widened, in a folder inside it for as long."""
    manifest = bundle.manifest
    graphs = (*manifest.graphs, *(baseline.graph for baseline in manifest.baselines))
    if not any(tensor.dtype == _BFLOAT16 for graph in graphs for tensor in graph.inputs):
        yield bundle
        return
    # Inside, so that whoever owns the folder that is being written owns this, too.
    with tempfile.TemporaryDirectory(prefix=".widened-", dir=bundle.root) as name:
        folder = Path(name)
        widened = tuple(_widened(bundle, graph, folder) for graph in manifest.graphs)
        baselines = tuple(
            replace(baseline, graph=_widened(bundle, baseline.graph, folder))
            for baseline in manifest.baselines
        )
        yield Bundle(bundle.root, replace(manifest, graphs=widened, baselines=baselines))


def _widened(bundle: Bundle, graph: GraphSpec, folder: Path) -> GraphSpec:
    model = ir.load(bundle.path_of(graph.path))
    WidenBfloat16()(model)
    path = folder / f"{graph.role}.onnx"
    ir.save(model, path, external_data=f"{path.name}.data")

    def named(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype="float32") if t.dtype == _BFLOAT16 else t for t in tensors)

    inputs, outputs = named(graph.inputs), named(graph.outputs)
    return replace(graph, path=str(path), inputs=inputs, outputs=outputs)
