"""One graph -> one engine, in this process. ``process.py`` does the same in one of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2c_engines.checks import Expected, check_network, check_size, expected_of, unpacking_warning
from c2c_engines.inspection import can_inspect, check_inspection, inspect_engine
from c2c_engines.library import TensorRTLibrary, load_library
from c2c_engines.messages import Messages, message_logger
from c2c_engines.monitor import PhaseTree, progress_monitor
from c2c_engines.network import parse_network
from c2c_engines.profiles import check_profiles
from c2c_engines.request import EngineReport, EngineRequest
from c2c_engines.summary import summarize
from c2c_engines.targets import check_precision, resolve_targets
from c2c_runtime.bundle.manifest import ProfileSpec
from c2c_runtime.errors import UnavailableError
from c2c_runtime.progress import OnProgress, unheard


def build_engine(request: EngineRequest, on_progress: OnProgress = unheard) -> EngineReport:
    """Build the engine of ``request`` and write it to its path; nothing is there if that fails.

    Progress goes from 0 to 1. Raises ``InputError`` if profiles or graph are wrong, ``BundleError`` if
    the network is not what was asked for, ``VerificationError`` if the engine is not, and
    ``UnavailableError`` if this library cannot build it; TensorRT's own words are in the text.
    """
    started = time.perf_counter()
    on_progress(0.0, "read the graph")
    check_profiles(request.graph, request.profiles)
    library = load_library(request.backend)
    resolve_targets(library, (request.target,))
    check_precision(library, request.target, request.precision, request.graph)

    trt, messages = library.module, Messages()
    logger = message_logger(trt, messages)
    builder = trt.Builder(logger)
    graph_path = Path(request.graph_path)
    network, _parser = parse_network(library, builder, logger, messages, graph_path)
    summary = summarize(network, trt)
    expected = expected_of(request.graph, request.precision)
    check_network(summary, expected, request.graph.role)

    config = builder.create_builder_config()
    phases = PhaseTree(on_progress)
    monitor = progress_monitor(trt, phases)
    config.progress_monitor = monitor
    _configure(library, config, request)
    for profile in request.profiles:
        _add_profile(builder, config, profile)
    cache = _TimingCache.load(library, config, request.timing_cache_path)

    engine = builder.build_serialized_network(network, config)
    if phases.failure is not None:
        raise phases.failure
    if engine is None:
        raise UnavailableError(
            f"{library} could not build the engine of {request.graph.role} for {request.target}:"
            + messages.tail(),
            "try another --target or --precision, or another version of TensorRT",
        )
    on_progress(0.97, "write the engine")
    size_bytes = engine.nbytes
    # A build that never says its weights is measured by its file, which holds them and the kernels.
    weights_bytes = messages.weights_bytes or size_bytes
    check_size(weights_bytes, summary, len(request.profiles), request.graph.role)
    unpacking = unpacking_warning(summary, request.profiles, messages.activation_bytes)
    _write(Path(request.engine_path), engine)
    del engine
    inspected = _inspect(library, request, expected)
    cache.save()
    on_progress(1.0, "done")
    return EngineReport(
        role=request.graph.role,
        target=request.target,
        backend_version=library.version,
        size_bytes=size_bytes,
        weights_bytes=messages.weights_bytes,
        activation_bytes=messages.activation_bytes,
        network=summary,
        timing_cache=cache.state,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=None,
        inspected=inspected,
        warnings=(*messages.of("warning"), *([unpacking] if unpacking else [])),
    )


def _configure(library: TensorRTLibrary, config: Any, request: EngineRequest) -> None:
    trt = library.module
    library.set_target(config, request.target)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _add_profile(builder: Any, config: Any, profile: ProfileSpec) -> None:
    made = builder.create_optimization_profile()
    for name, (low, opt, high) in profile.shapes.items():
        made.set_shape(name, low, opt, high)
    if config.add_optimization_profile(made) < 0:
        raise UnavailableError(
            f"TensorRT refuses the profile {profile.name}", "check its shapes against the graph's"
        )


def _inspect(library: TensorRTLibrary, request: EngineRequest, expected: Expected) -> bool:
    if not can_inspect(request.target):
        return False
    path = Path(request.engine_path)
    try:
        check_inspection(inspect_engine(library, path), expected, request.graph.role)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _write(path: Path, data: Any) -> None:
    """Write under a temporary name, then rename: what has the name is whole."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(memoryview(data))
        partial.replace(path)  # not rename: on Windows that refuses a name that is taken
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@dataclass
class _TimingCache:
    """Kernel timings of earlier builds. ``state``: read, new, or none."""

    config: Any
    path: Path | None
    state: str

    @classmethod
    def load(cls, library: TensorRTLibrary, config: Any, path: str | None) -> _TimingCache:
        if path is None or not library.has_timing_cache:
            return cls(config, None, "none")
        file = Path(path)
        data = file.read_bytes() if file.is_file() else b""
        # False: timings of another GPU or version are refused, and then the cache starts empty.
        if data and config.set_timing_cache(config.create_timing_cache(data), False):
            return cls(config, file, "read")
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return cls(config, file, "new")

    def save(self) -> None:
        if self.path is not None:
            _write(self.path, self.config.get_timing_cache().serialize())
