"""The child of ``process.py``: builds one engine and tells how far it is (``json_child``).

python -m c2c_engines.worker
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from c2c_engines.builder import build_engine
from c2c_engines.request import WORKER, EngineReport, EngineRequest
from c2c_runtime.errors import UnavailableError
from c2c_runtime.machine.json_child import serve
from c2c_runtime.machine.process_memory import peak_bytes
from c2c_runtime.progress import OnProgress


def build(request: EngineRequest, on_progress: OnProgress) -> EngineReport:
    """``build_engine``, with the peak memory of this process in the report."""
    try:
        report = build_engine(request, on_progress)
    except MemoryError as error:
        raise UnavailableError(
            "not enough memory to build an engine",
            "close other programs, or build on a machine with more memory",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"the engine cannot be written: {error}", "free some space, or make the folder writable"
        ) from error
    return replace(report, peak_memory_bytes=peak_bytes())


def remove_partial(request: EngineRequest) -> None:
    """What a build leaves that nobody waits for any more."""
    path = Path(request.engine_path)
    path.with_name(f"{path.name}.partial").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(serve(WORKER, build, on_abandoned=remove_partial))
