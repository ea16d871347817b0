"""The way from a pair to a bundle: check, export, write down what eager computes, verify, rename.

One model is in memory at a time: each Sharer is loaded, gives its part of the golden cases, becomes
a graph and is dropped; then the Fuser; then the Receiver, which takes the Fuser for its part.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import PreTrainedModel

from c2c_engines.bundle_engines import BuiltEngine, EngineOptions, build_engines
from c2c_engines.install import with_engines
from c2c_engines.library import load_library
from c2c_engines.targets import check_head_dim
from c2c_export.building.build_report import BuildReport, GraphReport, echo_roles
from c2c_export.building.build_target import CPU, BuildTarget
from c2c_export.building.bundle_writer import BundleWriter, write_bundle
from c2c_export.building.export_baseline import export_baseline
from c2c_export.building.plan import check_need, predict_need
from c2c_export.building.progress import Stages
from c2c_export.building.text_side import golden_text_ids, write_text_side
from c2c_export.fusers.fuser_checkpoint import LinkedLayers
from c2c_export.graphs.export_fuser import export_fuser
from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.graphs.graph_cost import ModelCost, graph_cost, linear_operations
from c2c_export.lowering.graph_options import GraphOptions, with_positions
from c2c_export.lowering.tracing import capture_attention
from c2c_export.pair.pair import PairSource
from c2c_export.pair.preflight import Alignment
from c2c_export.pair.prepare import PreparedPair, prepare_pair
from c2c_export.reading.checkpoints import load_model
from c2c_export.yardstick.eager import Caches
from c2c_export.yardstick.golden import (
    GoldenCase,
    plan_cases,
    receiver_expectation,
    sharer_expectation,
)
from c2c_export.yardstick.loss_reference import PlannedLoss, loss_reference, plan_loss
from c2c_export.yardstick.verify_build import measure_directory, verify_directory
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import (
    SCHEMA_VERSION,
    BaselineSpec,
    GoldenSpec,
    GraphSpec,
    Limits,
    Manifest,
    TokenizerSpec,
)
from c2c_runtime.checks.verification import Comparison
from c2c_runtime.errors import UsageError
from c2c_runtime.machine.process_memory import peak_bytes, release_memory


@dataclass(frozen=True)
class BuildOptions:
    """How to build. None: a default that fits the pair. ``with_baselines``: let every Sharer answer by
    itself, too, for comparison. Raises ``UsageError`` for baselines where engines answer."""

    target: BuildTarget = CPU
    alignment: Alignment = "auto"
    max_seq_len: int | None = None
    max_prompt_len: int | None = None
    max_batch_size: int = 1
    max_build_memory_bytes: int | None = None
    verify: bool = True
    force: bool = False
    with_baselines: bool = False

    def __post_init__(self) -> None:
        if self.with_baselines and self.target.backend != "ort":
            raise UsageError(
                f"baselines are answered with ONNX Runtime, not with engines of {self.target.backend}",
                "leave --with-baselines out, or build them with --backend ort (--target cpu or cuda)",
            )


@dataclass
class _Work:
    """What accumulates while a bundle is written."""

    writer: BundleWriter
    target: BuildTarget
    limits: Limits
    graphs: list[GraphSpec] = field(default_factory=list)
    reports: list[GraphReport] = field(default_factory=list)
    golden: list[GoldenSpec] = field(default_factory=list)
    baselines: list[BaselineSpec] = field(default_factory=list)

    @property
    def graph_directory(self) -> Path:
        return self.writer.path / "graphs" / self.target.dialect

    def options(self, role: str) -> GraphOptions:
        """How the graph of a role is exported."""
        return GraphOptions(self.target.dialect, self.target.precision.of(role), self.limits)

    def add(self, graph: GraphSpec, before: ModelCost, reasons: Sequence[str]) -> None:
        """Take a graph in, and report it against what it was before."""
        self.graphs.append(graph)
        self.report(graph, before, reasons)

    def report(self, graph: GraphSpec, before: ModelCost, reasons: Sequence[str]) -> None:
        """Report a graph against what it was before."""
        cost = graph_cost(self.writer.path / graph.path)
        weights = self.target.precision.of(graph.role).weights
        why = [*reasons, *([f"weights in {weights}"] if weights else [])]
        self.reports.append(
            GraphReport(
                graph.role,
                before.num_parameters,
                graph.num_parameters,
                before.operations,
                cost.operations,
                cost.head_operations,
                cost.num_nodes,
                ", ".join(why),
            )
        )


def build_bundle(
    source: PairSource, output: Path, options: BuildOptions, stages: Stages
) -> BuildReport:
    """Compile ``source`` into a bundle at ``output``.

    Raises ``PairError`` with every problem of the pair before anything is traced, and
    ``VerificationError`` if a graph is outside tolerance; then no bundle is left under that name.
    ``UnavailableError`` says that memory or disk will not do, also before anything is traced.
    """
    started = time.perf_counter()
    target = options.target
    baselines = source.sharers if options.with_baselines else ()
    stages.num_stages = (
        6 + len(source.sharers) + len(baselines) + (target.engine_backend is not None)
    )
    with write_bundle(output, force=options.force) as writer, stages.shown():
        with stages.stage("read and check the pair"):
            prepared = prepare_pair(
                source,
                options.alignment,
                options.max_seq_len,
                options.max_prompt_len,
                options.max_batch_size,
            )
            prepared = replace(prepared, limits=with_positions(prepared.limits, target.dialect))
        if stages.console is not None:
            echo_roles(stages.console, source, prepared.pair)
        _check_engines(prepared, target)
        num_targets = len(target.targets) if target.engine_backend else 0
        models = [source.receiver, *source.sharers]
        need = predict_need(models, prepared.fusers, num_targets, baselines)
        check_need(need, writer.path, options.max_build_memory_bytes)
        work = _Work(writer, target, prepared.limits)
        with stages.stage("write tokenizers and alignment"):
            tokenizers, alignments, tables = write_text_side(prepared, writer)
        text_ids, precision = golden_text_ids(prepared), target.precision.lossiest
        cases = plan_cases(prepared.pair, prepared.limits, text_ids, tables, precision)
        sharer_caches: dict[str, list[Caches]] = {case.name: [] for case in cases}
        for number in range(1, len(prepared.pair.sharers) + 1):
            with stages.stage(f"export Sharer {number}"):
                _export_sharer(prepared, number, cases, sharer_caches, work)
        for number in range(1, len(baselines) + 1):
            with stages.stage(f"export Sharer {number} with its LM head"):
                _export_baseline(prepared, number, work)
        with stages.stage("export Fuser"):
            fusers = _export_fuser(prepared, work)
        with stages.stage("export Receiver"):
            receiver = load_model(source.receiver)
            _write_golden(prepared, receiver, fusers, cases, sharer_caches, work)
            loss = _write_loss(prepared, receiver, target, writer) if options.verify else None
            del fusers
            release_memory()
            _export_receiver(prepared, receiver, work)
            del receiver
            release_memory()
        with stages.stage("hash the files"):
            manifest = _manifest(prepared, target, work, tokenizers, alignments)
            writer.write_manifest(manifest)
        comparisons: tuple[Comparison, ...] = ()
        if options.verify:
            with stages.stage("verify against eager PyTorch"):
                comparisons = verify_directory(writer.path)
        if loss is not None:
            with stages.stage("measure what few bits lose"):
                measured, found = measure_directory(writer.path, loss)
            comparisons += found
            manifest = replace(manifest, loss=measured)
            writer.write_manifest(manifest)
        manifest, engines = _build_engines(manifest, options, writer, stages)
        writer.commit()
    return BuildReport(
        bundle=output,
        graphs=tuple(work.reports),
        engines=tuple(engine.report for engine in engines),
        comparisons=comparisons,
        loss=manifest.loss.measured if manifest.loss else None,
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        seconds=time.perf_counter() - started,
        stage_seconds=stages.seconds,
        peak_memory_bytes=peak_bytes(),
    )


def _check_engines(prepared: PreparedPair, target: BuildTarget) -> None:
    """Refuse before anything is traced what engines cannot be built of."""
    if target.engine_backend is None:
        return
    library, pair = load_library(target.engine_backend), prepared.pair
    check_head_dim(library, pair.receiver.head_dim, "the Receiver")
    for number, sharer in enumerate(pair.sharers, start=1):
        check_head_dim(library, sharer.dims.head_dim, f"Sharer {number}")


def _export_sharer(
    prepared: PreparedPair,
    number: int,
    cases: Sequence[GoldenCase],
    sharer_caches: dict[str, list[Caches]],
    work: _Work,
) -> None:
    link = prepared.pair.sharers[number - 1]
    model = load_model(prepared.source.sharers[number - 1])
    for case in cases:
        sharer_caches[case.name].append(sharer_expectation(case, number, model))
    if link.num_cached_layers:
        before = ModelCost(model.num_parameters(), linear_operations([model]))
        capture_attention(model)
        graph = export_sharer(
            model,
            link.dims,
            link.num_cached_layers,
            names.sharer(number),
            work.graph_directory,
            work.options(names.sharer(number)),
        )
        cut = link.dims.num_layers - link.num_cached_layers
        work.add(
            graph,
            before,
            [
                "no LM head, no final norm, nothing past the keys and values of layer "
                f"{link.num_cached_layers - 1}" + (f" ({cut} layers more)" if cut else "")
            ],
        )
    del model
    release_memory()


def _export_baseline(prepared: PreparedPair, number: int, work: _Work) -> None:
    options = work.options(names.baseline(number))
    root = work.writer.path
    baseline, before = export_baseline(prepared, number, root, work.graph_directory, options)
    work.baselines.append(baseline)
    work.report(baseline.graph, before, ["the whole Sharer, for modes sharer and t2t"])


def _export_fuser(prepared: PreparedPair, work: _Work) -> list[LinkedLayers]:
    """Write the Fuser graph; returns the layers of each Sharer's Fuser."""
    fusers = prepared.load_fusers()
    graph = export_fuser(
        prepared.pair,
        [{layer: module for layer, (_, module) in fuser.items()} for fuser in fusers],
        work.graph_directory,
        work.options(names.FUSER),
    )
    if graph is None:
        return fusers
    modules = {id(module): module for fuser in fusers for _, module in fuser.values()}
    before = ModelCost(
        sum(p.numel() for module in modules.values() for p in module.parameters()),
        linear_operations(module for fuser in fusers for _, module in fuser.values()),
    )
    gates = [gate for sharer in prepared.pair.sharers for gate in sharer.gates]
    closed = gates.count(False)
    work.add(graph, before, [f"{closed} of {len(gates)} gates closed"] if closed else [])
    release_memory()
    return fusers


def _write_golden(
    prepared: PreparedPair,
    receiver: PreTrainedModel,
    fusers: Sequence[LinkedLayers],
    cases: Sequence[GoldenCase],
    sharer_caches: dict[str, list[Caches]],
    work: _Work,
) -> None:
    """What the eager chain computes for every case, from the Sharers' part of it on."""
    directory = work.writer.path / "golden"
    for case in cases:
        caches = sharer_caches[case.name]
        work.golden.append(
            receiver_expectation(
                case,
                prepared.pair,
                receiver,
                fusers,
                caches,
                directory,
                work.target.precision.lossiest,
            )
        )


def _write_loss(
    prepared: PreparedPair, receiver: PreTrainedModel, target: BuildTarget, writer: BundleWriter
) -> PlannedLoss | None:
    """What eager computes on the text that the loss of few bits is measured on, if there is one."""
    weights = target.precision.of(names.RECEIVER).weights
    planned = plan_loss(prepared, receiver.num_parameters(), weights, target.dialect)
    if planned is not None:
        vocab_size = prepared.pair.receiver.vocab_size
        reference = loss_reference(receiver, planned.token_ids, vocab_size)
        reference.save(writer.path / planned.path)
    return planned


def _export_receiver(prepared: PreparedPair, receiver: PreTrainedModel, work: _Work) -> None:
    before = ModelCost(receiver.num_parameters(), linear_operations([receiver]))
    capture_attention(receiver)
    graph = export_receiver(
        receiver, prepared.pair.receiver, work.graph_directory, work.options(names.RECEIVER)
    )
    work.add(graph, before, ["logits of the last position only"])


def _build_engines(
    manifest: Manifest, options: BuildOptions, writer: BundleWriter, stages: Stages
) -> tuple[Manifest, tuple[BuiltEngine, ...]]:
    """The manifest with the engines that the target names, now in the bundle."""
    target = options.target
    if target.engine_backend is None:
        return manifest, ()
    with stages.stage("build engines"):
        built = build_engines(
            writer.path,
            manifest,
            EngineOptions(
                target.engine_backend,
                target.targets,
                max_memory_bytes=options.max_build_memory_bytes,
            ),
            lambda fraction, phase: stages.describe(f"build engines: {phase}"),
        )
        manifest = with_engines(writer.path, manifest, [engine.spec for engine in built])
        writer.write_manifest(manifest)
    return manifest, built


def _manifest(
    prepared: PreparedPair,
    target: BuildTarget,
    work: _Work,
    tokenizers: dict[str, TokenizerSpec],
    alignments: dict[str, str],
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pair=prepared.pair,
        limits=prepared.limits,
        precision=str(target.precision),
        graphs=tuple(sorted(work.graphs, key=lambda graph: graph.role)),
        engines=(),
        tokenizers=tokenizers,
        alignments=alignments,
        eos_ids=prepared.eos_ids,
        golden=tuple(work.golden),
        tools=_tools(),
        files=work.writer.files(),
        baselines=tuple(work.baselines),
    )


def _tools() -> dict[str, str]:
    packages = ("c2c-export", "onnx", "onnxruntime", "tokenizers", "transformers")
    return {package: importlib.metadata.version(package) for package in packages} | {
        "torch": torch.__version__.partition("+")[0]
    }
