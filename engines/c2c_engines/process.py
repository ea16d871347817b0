"""One engine built in a process of its own, under a ceiling of memory.

TensorRT takes several times the weights while it builds, cannot be interrupted, and ends the process
when it runs into trouble: none of that reaches the caller.
"""

from __future__ import annotations

from pathlib import Path

from c2c_engines.request import WORKER, EngineReport, EngineRequest
from c2c_runtime.machine.json_child import Job, Wording, ask
from c2c_runtime.progress import OnProgress, unheard


def build_engine_apart(
    request: EngineRequest,
    on_progress: OnProgress = unheard,
    *,
    max_memory_bytes: int | None = None,
) -> EngineReport:
    """What ``builder.build_engine`` does, in a child process, with its peak memory in the report.

    The child is ended if it holds more than ``max_memory_bytes``, and on any exception here, Ctrl-C
    included; then no new file is left. Raises what ``build_engine`` raises, and ``UnavailableError`` if
    the child was ended by the ceiling, the system, or a crash.
    """
    engine_path = Path(request.engine_path)
    was_there = engine_path.exists()
    wording = Wording(
        f"the build of the engine of {request.graph.role} for {request.target}",
        if_crashed="try another --target or --precision, or another version of TensorRT",
        if_too_large="raise --max-build-memory, or build on a machine with more memory",
        if_killed="close other programs, or build on a machine with more memory",
    )
    try:
        return ask(Job(WORKER, request, wording, on_progress, max_memory_bytes))
    except BaseException:
        if not was_there:
            engine_path.unlink(missing_ok=True)
        engine_path.with_name(f"{engine_path.name}.partial").unlink(missing_ok=True)
        raise
