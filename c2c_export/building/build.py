"""The way from a pair to a bundle, top to bottom: check, export, verify, build engines, rename.

Every stage returns what it made, frozen; the next ones are given what they need of it. One model is in
memory at a time.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from c2c_engines.bundle_engines import BuiltEngine, EngineOptions, build_engines
from c2c_engines.install import with_engines
from c2c_engines.library import load_library
from c2c_engines.targets import check_head_dim
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.build_report import BuildReport, GraphReport, echo_roles
from c2c_export.building.build_target import BuildTarget
from c2c_export.building.bundle_writer import BundleWriter, write_bundle
from c2c_export.building.export_baseline import BuiltBaseline, build_baseline
from c2c_export.building.graph_site import BuiltGraph, GraphSite
from c2c_export.building.graph_stages import (
    BuiltReceiver,
    BuiltSharer,
    build_fuser,
    build_receiver,
    build_sharer,
)
from c2c_export.building.kept_stages import KeptStages
from c2c_export.building.once import Once
from c2c_export.building.plan import check_need, predict_need
from c2c_export.building.progress import Stages
from c2c_export.building.stage_cache import StageCache
from c2c_export.building.stage_keys import Digests
from c2c_export.building.text_side import TextSide, golden_text_ids, write_text_side
from c2c_export.lowering.graph_options import with_positions
from c2c_export.pair.pair import PairSource
from c2c_export.pair.prepare import PreparedPair, prepare_pair
from c2c_export.reading.weight_headers import num_parameters
from c2c_export.yardstick.golden import plan_cases
from c2c_export.yardstick.verify_build import measure_directory, verify_directory
from c2c_runtime.bundle.manifest import SCHEMA_VERSION, FileEntry, Manifest
from c2c_runtime.checks.verification import Comparison
from c2c_runtime.machine.process_memory import peak_bytes, release_memory


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
    numbers = range(1, len(source.sharers) + 1)
    baselines = numbers if options.with_baselines else range(0)
    stages.num_stages = 6 + len(numbers) + len(baselines) + (target.engine_backend is not None)
    with ExitStack() as opened:
        writer = opened.enter_context(write_bundle(output, force=options.force))
        opened.enter_context(stages.shown())
        with stages.stage("read and check the pair"):
            prepared = _prepare(source, options)
        if stages.console is not None:
            echo_roles(stages.console, prepared)
        _check_engines(prepared, target)
        _check_need(prepared, options, writer.path)
        site = GraphSite(writer.path, target, prepared.limits)
        kept = opened.enter_context(_kept_stages(options, writer.path / "scratch"))
        with stages.stage("write tokenizers and alignment"):
            text = write_text_side(prepared, writer.path)
        cases = plan_cases(
            prepared.pair,
            prepared.limits,
            golden_text_ids(prepared),
            text.tables,
            num_parameters(source.receiver.directory, source.receiver.gguf_file),
        )
        sharers: list[BuiltSharer] = []
        for number in numbers:
            with stages.stage(f"export Sharer {number}"):
                sharers.append(build_sharer(prepared, number, cases, site, kept))
                release_memory()
        alone: list[BuiltBaseline] = []
        for number in baselines:
            with stages.stage(f"export Sharer {number} with its LM head"):
                alone.append(build_baseline(prepared, number, site, kept))
                release_memory()
        fusers = Once(prepared.load_fusers)
        with stages.stage("export Fuser"):
            fuser = build_fuser(prepared, fusers, site, kept)
            release_memory()
        with stages.stage("export Receiver"):
            receiver = build_receiver(
                prepared, cases, sharers, fusers, site, kept, with_loss=options.verify
            )
            release_memory()
        graphs = [*(sharer.graph for sharer in sharers), fuser, receiver.graph]
        built = [graph for graph in graphs if graph is not None]
        with stages.stage("hash the files"):
            files = kept.files()
            kept.close()
            manifest = _manifest(
                prepared, target, text, built, receiver, alone, writer.files(files)
            )
            writer.write_manifest(manifest)
        comparisons: tuple[Comparison, ...] = ()
        if options.verify:
            with stages.stage("verify against eager PyTorch"):
                comparisons = verify_directory(writer.path)
        if receiver.loss is not None:
            with stages.stage("measure what few bits lose"):
                measured, found = measure_directory(writer.path, receiver.loss)
            comparisons += found
            manifest = replace(manifest, loss=measured)
            writer.write_manifest(manifest)
        engines: tuple[BuiltEngine, ...] = ()
        if target.engine_backend is not None:
            with stages.stage("build engines"):
                engines = _build_engines(manifest, options, writer, stages)
            manifest = with_engines(writer.path, manifest, [engine.spec for engine in engines])
            writer.write_manifest(manifest)
        writer.commit()
    return BuildReport(
        bundle=output,
        graphs=_reports(sharers, alone, fuser, receiver),
        engines=tuple(engine.report for engine in engines),
        comparisons=comparisons,
        loss=manifest.loss.measured if manifest.loss else None,
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        seconds=time.perf_counter() - started,
        stage_seconds=stages.seconds,
        peak_memory_bytes=peak_bytes(),
    )


def _prepare(source: PairSource, options: BuildOptions) -> PreparedPair:
    prepared = prepare_pair(source, options.alignment, options.limits)
    return replace(prepared, limits=with_positions(prepared.limits, options.target.dialect))


def _check_engines(prepared: PreparedPair, target: BuildTarget) -> None:
    """Refuse before anything is traced what engines cannot be built of."""
    if target.engine_backend is None:
        return
    library, pair = load_library(target.engine_backend), prepared.pair
    check_head_dim(library, pair.receiver.head_dim, "the Receiver")
    for number, sharer in enumerate(pair.sharers, start=1):
        check_head_dim(library, sharer.dims.head_dim, f"Sharer {number}")


def _check_need(prepared: PreparedPair, options: BuildOptions, root: Path) -> None:
    """Refuse before anything is traced what this machine has no room for."""
    source, target = prepared.source, options.target
    need = predict_need(
        [source.receiver, *source.sharers],
        prepared.fusers,
        len(target.targets) if target.engine_backend else 0,
        source.sharers if options.with_baselines else (),
    )
    check_need(need, root, options.max_build_memory_bytes)


@contextmanager
def _kept_stages(options: BuildOptions, scratch: Path) -> Iterator[KeptStages]:
    cache = StageCache.of_user() if options.use_cache else None
    kept = KeptStages(cache, Digests(None if cache is None else cache.root), scratch)
    try:
        yield kept
    finally:
        kept.close()


def _build_engines(
    manifest: Manifest, options: BuildOptions, writer: BundleWriter, stages: Stages
) -> tuple[BuiltEngine, ...]:
    """The engines that the target names, in the bundle's folder."""
    backend = options.target.engine_backend
    assert backend is not None
    engine_options = EngineOptions(
        backend, options.target.targets, max_memory_bytes=options.max_build_memory_bytes
    )
    return build_engines(
        writer.path,
        manifest,
        engine_options,
        lambda fraction, phase: stages.describe(f"build engines: {phase}"),
    )


def _reports(
    sharers: Iterable[BuiltSharer],
    alone: Iterable[BuiltBaseline],
    fuser: BuiltGraph | None,
    receiver: BuiltReceiver,
) -> tuple[GraphReport, ...]:
    """Of every graph, in the order in which they were made."""
    reports = [sharer.graph.report for sharer in sharers if sharer.graph is not None]
    reports += [baseline.report for baseline in alone]
    reports += [fuser.report] if fuser is not None else []
    return (*reports, receiver.graph.report)


def _manifest(
    prepared: PreparedPair,
    target: BuildTarget,
    text: TextSide,
    graphs: Iterable[BuiltGraph],
    receiver: BuiltReceiver,
    alone: Iterable[BuiltBaseline],
    files: dict[str, FileEntry],
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pair=prepared.pair,
        limits=prepared.limits,
        precision=str(target.precision),
        graphs=tuple(sorted((graph.spec for graph in graphs), key=lambda graph: graph.role)),
        engines=(),
        tokenizers=text.tokenizers,
        alignments=text.alignments,
        eos_ids=prepared.eos_ids,
        golden=receiver.golden,
        tools=_tools(),
        files=files,
        baselines=tuple(baseline.spec for baseline in alone),
    )


def _tools() -> dict[str, str]:
    packages = ("c2c-export", "onnx", "onnxruntime", "tokenizers", "transformers")
    return {package: importlib.metadata.version(package) for package in packages} | {
        "torch": torch.__version__.partition("+")[0]
    }
