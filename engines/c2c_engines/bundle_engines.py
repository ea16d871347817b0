"""All graphs of a bundle -> engines, for one backend and several targets.

The engines of a target lie in a folder of their own, ``engines/<backend>-<version>-<target>/``, with
one file a role and the timing cache where the backend has one. A folder gets its name when all
engines of all targets are built, and never the name of one that is there: whoever reads the bundle
meanwhile reads the old engines. ``install.py`` puts the new ones into the manifest.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from c2c_engines.library import TensorRTLibrary, load_library
from c2c_engines.process import build_engine_apart
from c2c_engines.profiles import check_profiles, profiles_for
from c2c_engines.request import EngineReport, EngineRequest
from c2c_engines.targets import check_head_dim, check_precision, has_caches, resolve_targets
from c2c_runtime.bundle.bundle import sha256_of
from c2c_runtime.bundle.manifest import EngineBackend, EngineSpec, GraphSpec, Manifest, ProfileSpec
from c2c_runtime.bundle.precision import parse_precision
from c2c_runtime.errors import BundleError, UnavailableError
from c2c_runtime.machine.machine import platform_name
from c2c_runtime.progress import OnProgress, unheard

ENGINES = "engines"
TIMING_CACHE = "timing.cache"
PARTIAL = ".engines-partial-"


@dataclass(frozen=True)
class EngineOptions:
    """How to build a bundle's engines. ``targets``: smNN or current; none means current.

    ``max_memory_bytes``: the most that the process of one build may hold. ``workspace_bytes``: see
    ``EngineRequest``.
    """

    backend: EngineBackend
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    max_memory_bytes: int | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine as the manifest will have it, and what its build said."""

    spec: EngineSpec
    report: EngineReport


@dataclass(frozen=True)
class _Job:
    """One engine to build. ``folder``: of its target, without the place."""

    graph: GraphSpec
    target: str
    folder: str
    profiles: tuple[ProfileSpec, ...]


def build_engines(
    bundle_root: Path,
    manifest: Manifest,
    options: EngineOptions,
    on_progress: OnProgress = unheard,
) -> tuple[BuiltEngine, ...]:
    """Build every graph's engine for every target, into new folders of the bundle.

    The manifest is read, not written; engines that it names lend their timing caches. Everything that
    can be refused is refused before the first build: raises ``UnavailableError`` for backend, target or precision, ``BundleError`` where the
    bundle has no graphs that this library reads, and what ``build_engine_apart`` raises. On any
    exception nothing new is left in the bundle.
    """
    library = load_library(options.backend)
    jobs = _plan(library, manifest, options)
    with _partial_folder(bundle_root) as partial:
        built = []
        total = sum(_effort(job) for job in jobs)
        done = 0.0
        for job in jobs:
            share = _effort(job) / total
            report = build_engine_apart(
                _request(library, bundle_root, manifest, options, job, partial),
                _scaled(on_progress, done, share, f"{job.graph.role} for {job.target}"),
                max_memory_bytes=options.max_memory_bytes,
            )
            built.append((job, report))
            done += share
        places = _move(partial, bundle_root)
    on_progress(1.0, "done")
    return tuple(
        BuiltEngine(_spec(library, manifest, job, places[job.folder]), report)
        for job, report in built
    )


def _plan(library: TensorRTLibrary, manifest: Manifest, options: EngineOptions) -> list[_Job]:
    graphs = [graph for graph in manifest.graphs if graph.dialect == library.dialect]
    if not graphs:
        dialects = sorted({graph.dialect for graph in manifest.graphs})
        raise BundleError.of(
            f"{library} reads graphs of the dialect {library.dialect}; this bundle has "
            f"{', '.join(dialects) or 'none'}",
            f"build the bundle again with `c2c-export build --backend {library.name}`",
        )
    jobs = []
    for target in resolve_targets(library, options.targets):
        folder = f"{library.name}-{library.version}-{target}"
        for graph in graphs:
            _check_heads(library, graph)
            check_precision(library, target, _precision_of(manifest, graph), graph)
            profiles = profiles_for(
                graph,
                manifest.limits,
                max_section_len=_max_section_len(manifest),
                min_max_batch=library.min_max_batch,
            )
            check_profiles(graph, profiles)
            jobs.append(_Job(graph, target, folder, profiles))
    return jobs


def _check_heads(library: TensorRTLibrary, graph: GraphSpec) -> None:
    for tensor in graph.inputs:
        head_dim = tensor.shape[-1]
        if has_caches(graph) and tensor.name.startswith("past.") and isinstance(head_dim, int):
            check_head_dim(library, head_dim, f"the {graph.role}")


def _precision_of(manifest: Manifest, graph: GraphSpec) -> str:
    """That of one graph: roles may differ."""
    return str(parse_precision(manifest.precision).of(graph.role))


def _max_section_len(manifest: Manifest) -> int:
    """Tokens of the longest section that the Fuser gets in one call."""
    sharers, limits = manifest.pair.sharers, manifest.limits
    if not any(link.fuses_whole_sections for link in sharers):
        return limits.max_prompt_len
    longest = max(link.max_fused_len or limits.max_seq_len for link in sharers)
    return min(longest, limits.max_seq_len)


def _request(
    library: TensorRTLibrary,
    root: Path,
    manifest: Manifest,
    options: EngineOptions,
    job: _Job,
    partial: Path,
) -> EngineRequest:
    folder = partial / job.folder
    folder.mkdir(exist_ok=True)
    cache = folder / TIMING_CACHE
    known = _known_timings(library, root, manifest, job.target)
    if known is not None and not cache.exists():
        shutil.copyfile(known, cache)
    return EngineRequest(
        graph=job.graph,
        graph_path=str(root / job.graph.path),
        engine_path=str(folder / _file_name(job)),
        backend=options.backend,
        target=job.target,
        precision=_precision_of(manifest, job.graph),
        profiles=job.profiles,
        workspace_bytes=options.workspace_bytes,
        timing_cache_path=str(cache),
    )


def _known_timings(
    library: TensorRTLibrary, root: Path, manifest: Manifest, target: str
) -> Path | None:
    """The timing cache beside the engines that this build replaces, wherever they lie; None where
    there is none, or it is not as it was written."""
    made_alike = (library.name, library.version, target)
    for engine in manifest.engines:
        if (engine.backend, engine.backend_version, engine.target) == made_alike:
            name = str(PurePosixPath(engine.path).with_name(TIMING_CACHE))
            entry, path = manifest.files.get(name), root / name
            if entry is not None and path.is_file() and sha256_of(path) == entry.sha256:
                return path
    return None


def _spec(library: TensorRTLibrary, manifest: Manifest, job: _Job, place: str) -> EngineSpec:
    return EngineSpec(
        role=job.graph.role,
        backend=library.name,
        backend_version=library.version,
        target=job.target,
        platform=platform_name(),
        precision=manifest.precision,
        path=f"{place}/{_file_name(job)}",
        profiles=job.profiles,
    )


def _file_name(job: _Job) -> str:
    return f"{job.graph.role}.engine"


def _effort(job: _Job) -> float:
    """How long an engine takes, in no unit: with its weights and profiles, and a second for itself."""
    return len(job.profiles) * (job.graph.num_parameters + 10_000_000)


def _scaled(on_progress: OnProgress, done: float, share: float, what: str) -> OnProgress:
    def report(fraction: float, phase: str) -> None:
        on_progress(min(done + share * fraction, 1.0), f"{what}: {phase}")

    return report


def _move(partial: Path, root: Path) -> dict[str, str]:
    """Give the finished folders their names. Returns folder -> its place in the bundle."""
    places = {}
    try:
        for folder in sorted(partial.iterdir()):
            number, place = 1, root / ENGINES / folder.name
            while place.exists():
                number += 1
                place = root / ENGINES / f"{folder.name}.{number}"
            place.parent.mkdir(exist_ok=True)
            folder.rename(place)
            places[folder.name] = place.relative_to(root).as_posix()
    except BaseException:
        for taken in places.values():
            shutil.rmtree(root / taken, ignore_errors=True)
        raise
    return places


@contextlib.contextmanager
def _partial_folder(root: Path) -> Iterator[Path]:
    """A folder of the bundle to build in; it is gone afterwards."""
    try:
        path = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        raise not_writable(root, error) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def not_writable(root: Path, error: OSError) -> UnavailableError:
    """What to raise where nothing can be written into a bundle."""
    return UnavailableError(
        f"the bundle {root} cannot be written to: {error}",
        "free some space, or copy the bundle to where you may write",
    )
