"""The child of ``process.py``: builds one engine and tells how far it is.

    python -m c2c_engines.worker

One line of JSON on stdin is the request; when stdin closes after that, whoever asked is gone and the
build ends. Every line on stdout is a JSON object: ``{"progress": [0.5, "phase"]}``, and at the end
``{"report": {...}}`` or ``{"error": {...}}``. What TensorRT itself prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from c2c_engines.builder import build_engine
from c2c_engines.request import REPORT, REQUEST
from c2c_runtime.errors import C2CError, InputError, UnavailableError
from c2c_runtime.machine.process_memory import peak_bytes


def main() -> int:
    """Build what stdin asks for. The exit status is the error's, 0 without one."""
    answers = _claim_stdout()
    request = REQUEST.validate_json(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_asker, args=(request.engine_path,), daemon=True).start()
    try:
        report = build_engine(
            request, lambda fraction, phase: _tell(answers, {"progress": [fraction, phase]})
        )
    except C2CError as error:
        _tell(answers, {"error": error_as_json(error)})
        return error.exit_code
    except MemoryError:
        problem = UnavailableError(
            "not enough memory to build an engine",
            "close other programs, or build on a machine with more memory",
        )
        _tell(answers, {"error": error_as_json(problem)})
        return problem.exit_code
    except OSError as error:
        problem = UnavailableError(
            f"the engine cannot be written: {error}", "free some space, or make the folder writable"
        )
        _tell(answers, {"error": error_as_json(problem)})
        return problem.exit_code
    report = replace(report, peak_memory_bytes=peak_bytes())
    _tell(answers, {"report": REPORT.dump_python(report, mode="json")})
    return 0


def error_as_json(error: C2CError) -> dict[str, Any]:
    """An error as plain types; ``process.py`` makes it an error again."""
    data: dict[str, Any] = {"kind": type(error).__name__}
    if isinstance(error, InputError):
        problems = [[problem.cause, problem.remedy] for problem in error.problems]
        return data | {"headline": error.headline, "problems": problems}
    return data | {"cause": error.cause, "remedy": error.remedy}


def _claim_stdout() -> TextIO:
    """Stdout for answers only: from here on, everything that prints to it prints to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers


def _tell(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")


def _leave_with_the_asker(engine_path: str) -> None:
    """TensorRT cannot be interrupted, so the process ends from under it."""
    # Not sys.stdin: a thread that waits in it keeps the interpreter from ending.
    while os.read(0, 4096):
        pass
    path = Path(engine_path)
    path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
