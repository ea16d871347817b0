"""What a bundle would do on a machine, and what to do about it: the bundle's half of ``doctor``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle, build_engines_command, read_manifest
from c2c_runtime.bundle.element_types import num_bytes
from c2c_runtime.bundle.manifest import Dialect, EngineSpec, Manifest, TensorSpec
from c2c_runtime.errors import BundleError, Problem
from c2c_runtime.machine.backend_choice import BackendChoice, choose_backend
from c2c_runtime.machine.engine_check import backend_for, dialects_for, engine_problems
from c2c_runtime.machine.machine import Machine


@dataclass(frozen=True)
class EngineFit:
    """An engine and why it does not run here; no problems: it does."""

    spec: EngineSpec
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class BundleReport:
    """Everything ``doctor`` says of a bundle.

    ``manifest`` and ``choice`` are None where the manifest cannot be read. ``damage``: what makes the
    bundle unusable anywhere. ``hashed``: whether the contents of all files were read.
    ``weights_bytes`` and ``caches_bytes``: what one conversation holds in memory, of the graphs that
    answer here, or of the first dialect. ``advice``: what could be done to answer better here.
    """

    path: str
    manifest: Manifest | None
    damage: tuple[Problem, ...]
    hashed: bool
    engines: tuple[EngineFit, ...] = ()
    choice: BackendChoice | None = None
    weights_bytes: int = 0
    caches_bytes: int = 0
    advice: tuple[Problem, ...] = ()


def examine_bundle(
    path: Path,
    machine: Machine,
    available_bytes: int | None,
    hash_files: Callable[[Bundle], None] | None,
) -> BundleReport:
    """Look at a bundle with a machine in mind. ``hash_files`` reads every file and raises
    ``BundleError``; None leaves that out. Raises nothing for a damaged bundle: ``damage`` says it."""
    try:
        manifest = read_manifest(path)
    except BundleError as error:
        return BundleReport(str(path), None, _problems_of(error), hashed=False)
    damage: tuple[Problem, ...] = ()
    try:
        bundle = Bundle.open(path)
        if hash_files is not None:
            hash_files(bundle)
    except BundleError as error:
        damage = _problems_of(error)
    except OSError as error:
        remedy = "look at the disk and at who may read the files"
        damage = (Problem(f"{error.filename} cannot be read: {error.strerror}", remedy),)
    choice = choose_backend(manifest, machine, path)
    dialect = choice.ort_dialect or manifest.graphs[0].dialect if manifest.graphs else "ort"
    weights, caches = weights_bytes(manifest, dialect), caches_bytes(manifest, dialect)
    return BundleReport(
        str(path),
        manifest,
        damage,
        hashed=hash_files is not None,
        engines=tuple(
            EngineFit(spec, tuple(engine_problems(spec, machine, path)))
            for spec in manifest.engines
        ),
        choice=choice,
        weights_bytes=weights,
        caches_bytes=caches,
        advice=(
            *_advice_on_engines(manifest, machine, choice, path),
            *_advice_on_memory(choice, weights + caches, available_bytes),
        ),
    )


def caches_bytes(manifest: Manifest, dialect: Dialect) -> int:
    """Bytes of one conversation's caches: every ``past`` input of the graphs of a dialect, at full
    batch and length."""
    limits = manifest.limits
    sizes = {"batch": limits.max_batch_size, "max_seq_len": limits.max_seq_len}
    return sum(
        num_bytes(
            [sizes.get(str(size), size if isinstance(size, int) else 1) for size in spec.shape],
            spec.dtype,
        )
        for graph in manifest.graphs
        if graph.dialect == dialect and graph.role != names.FUSER
        for spec in graph.inputs
        if _is_cache(spec)
    )


def weights_bytes(manifest: Manifest, dialect: Dialect) -> int:
    """Bytes of the graphs of a dialect, weights included."""
    paths = [graph.path for graph in manifest.graphs if graph.dialect == dialect]
    files = manifest.files
    return sum(
        files[name].size_bytes for path in paths for name in (path, f"{path}.data") if name in files
    )


def _is_cache(spec: TensorSpec) -> bool:
    return spec.name.startswith("past.")


def _problems_of(error: BundleError) -> tuple[Problem, ...]:
    return error.problems or (Problem(error.headline),)


def _advice_on_engines(
    manifest: Manifest, machine: Machine, choice: BackendChoice, path: Path
) -> Sequence[Problem]:
    """Engines can be built here from the bundle's graphs, where there is a GPU and none run yet."""
    if choice.engines is not None or not machine.gpus:
        return ()
    backend = backend_for(machine)
    version = machine.library_version(backend)
    gpu = machine.gpus[0]
    cause = f"no engine of this bundle runs on {gpu.name} ({gpu.capability}) yet"
    if version is None:
        return (Problem(cause, f"pip install 'c2c-export[{backend}]', then run doctor again"),)
    there = {graph.dialect for graph in manifest.graphs}
    wanted = dialects_for(backend, version)
    if not there & set(wanted):
        return (
            Problem(
                f"{backend} {version} builds engines from graphs of the dialect "
                f"{' or '.join(wanted)}; the bundle has {', '.join(sorted(there))}",
                f"compile it again with --backend {backend} --dialect {wanted[0]} --no-engines, and copy it "
                "here",
            ),
        )
    return (Problem(cause, build_engines_command(path, backend, gpu.capability)),)


def _advice_on_memory(
    choice: BackendChoice, needed: int, available: int | None
) -> Sequence[Problem]:
    if choice.engines is not None:
        gpu = choice.engines.gpu
        available = gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes
    if available is None or needed <= available:
        return ()
    return (
        Problem(
            f"weights and caches need {needed / 2**30:.1f} GiB of memory; "
            f"{available / 2**30:.1f} GiB are available",
            "close other programs, or build with a smaller --max-seq-len or --precision",
        ),
    )
