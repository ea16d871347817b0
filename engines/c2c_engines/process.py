"""One engine built in a process of its own, under a ceiling of memory.

TensorRT takes several times the weights while it builds, cannot be interrupted, and ends the process
when it runs into trouble: none of that reaches the caller.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from c2c_engines.monitor import OnProgress
from c2c_engines.request import REPORT, REQUEST, EngineReport, EngineRequest
from c2c_runtime import errors
from c2c_runtime.errors import C2CError, InputError, Problem, UnavailableError
from c2c_runtime.machine.process_memory import held_bytes

_LOOK_EVERY_S = 0.05
_MIB = 2**20


def build_engine_apart(
    request: EngineRequest,
    on_progress: OnProgress = lambda fraction, phase: None,
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
    try:
        with _child() as child:
            child.ask(request)
            with _Ceiling(child, max_memory_bytes).watched():
                answer = _follow(child, on_progress)
            if "report" in answer:
                report: EngineReport = REPORT.validate_python(answer["report"])
                return report
            raise _error_from_json(answer["error"]) if answer else _crash(child, request)
    except BaseException:
        if not was_there:
            engine_path.unlink(missing_ok=True)
        engine_path.with_name(f"{engine_path.name}.partial").unlink(missing_ok=True)
        raise


@dataclass
class _Child:
    process: subprocess.Popen[str]
    stderr: IO[bytes]

    def ask(self, request: EngineRequest) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(REQUEST.dump_json(request).decode() + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead already: what ``_follow`` finds says why

    def last_words(self) -> str:
        """The end of what it printed to stderr."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines[-8:])


@contextmanager
def _child() -> Iterator[_Child]:
    """A worker; it is gone when this ends."""
    with tempfile.TemporaryFile() as stderr:
        # A session of its own: a terminal's Ctrl-C comes to the parent alone, and it ends the child.
        process = subprocess.Popen(
            [sys.executable, "-m", "c2c_engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        try:
            yield _Child(process, stderr)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _follow(child: _Child, on_progress: OnProgress) -> dict[str, Any]:
    """The child's last word: a report or an error; empty if it ended without one."""
    assert child.process.stdout is not None
    last: dict[str, Any] = {}
    for line in child.process.stdout:
        message = json.loads(line)
        if "progress" in message:
            fraction, phase = message["progress"]
            on_progress(fraction, phase)
        else:
            last = message
    child.process.wait()
    return last


@dataclass
class _Ceiling:
    """Ends the child when it holds more than ``max_bytes``; ``passed_bytes`` is what it then held.

    Resident memory is watched, not limited: a limit on the address space would also count what CUDA
    only reserves.
    """

    child: _Child
    max_bytes: int | None
    passed_bytes: int | None = None
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs. Raises ``UnavailableError`` if the ceiling was passed."""
        if self.max_bytes is None:
            yield
            return
        thread = threading.Thread(target=self._watch, args=(self.max_bytes,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
        if self.passed_bytes is not None:
            raise UnavailableError(
                f"the build of an engine took {self.passed_bytes / _MIB:.0f} MiB of memory, more than "
                f"the {self.max_bytes / _MIB:.0f} MiB it may take",
                "raise --max-build-memory, or build on a machine with more memory",
            )

    def _watch(self, max_bytes: int) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            held = held_bytes(self.child.process.pid)
            if held is not None and held > max_bytes:
                self.passed_bytes = held
                self.child.process.kill()
                return


def _crash(child: _Child, request: EngineRequest) -> C2CError:
    code = child.process.returncode
    what = f"the build of the engine of {request.graph.role} for {request.target}"
    if code == -signal.SIGKILL:
        return UnavailableError(
            f"{what} was killed, most likely by the system for want of memory",
            "close other programs, or build on a machine with more memory",
        )
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return UnavailableError(
        f"{what} crashed ({how}){child.last_words()}",
        "try another --target or --precision, or another version of TensorRT",
    )


def _error_from_json(data: dict[str, Any]) -> C2CError:
    kind: type[Any] = getattr(errors, data["kind"], C2CError)
    if issubclass(kind, InputError):
        problems = [Problem(cause, remedy) for cause, remedy in data["problems"]]
        return kind(data["headline"], problems)
    error: C2CError = kind(data["cause"], data["remedy"])
    return error
