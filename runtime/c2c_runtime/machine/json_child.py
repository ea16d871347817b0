"""Work in a process of its own, asked and answered in JSON: both sides of the pipe.

A child is ``python -m MODULE``. It reads one line from stdin, the request, and ends when stdin closes
after that: whoever asked is gone. Every line that it writes to stdout is an object: progress, and last a
report or an error. What its libraries print goes to stderr, the end of which explains a crash.

    # c2c_export/shout.py
    SHOUT = ChildModule("c2c_export.shout", TypeAdapter(Words), TypeAdapter(Shouted))

    if __name__ == "__main__":
        sys.exit(serve(SHOUT, shout))

    # who asks
    shouted = ask(Job(SHOUT, Words("hello"), Wording("the shout", if_crashed="call softer")))

Memory that work takes, crashes of native code, and work that cannot be interrupted stay with the child:
it is ended by its ceiling, and on any exception of the asker, Ctrl-C included.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Generic, TextIO, TypeVar

from pydantic import TypeAdapter

from c2c_runtime import errors
from c2c_runtime.errors import C2CError, InputError, Problem, UnavailableError
from c2c_runtime.machine.process_memory import held_bytes
from c2c_runtime.progress import OnProgress, unheard

Request = TypeVar("Request")
Report = TypeVar("Report")

_LOOK_EVERY_S = 0.05
_MIB = 2**20
_KILLED = -9  # SIGKILL, which Windows has no name for
_NUM_LAST_WORDS = 8
_NO_ASKER = 130  # a child's exit status


@dataclass(frozen=True)
class ChildModule(Generic[Request, Report]):
    """A module that serves as a child, and how what it reads and writes looks."""

    name: str
    request: TypeAdapter[Request]
    report: TypeAdapter[Report]


@dataclass(frozen=True)
class Wording:
    """The words of errors. ``work`` begins a sentence ("the build of the engine of receiver"); the
    others are remedies."""

    work: str
    if_crashed: str
    if_too_large: str = "allow more memory, or use a machine with more"
    if_killed: str = "close other programs, or use a machine with more memory"
    if_too_slow: str = "close other programs, or use a faster machine"


@dataclass(frozen=True)
class Job(Generic[Request, Report]):
    """One request to a child of its own. ``max_memory_bytes``: the most that it may hold (resident
    memory), ``timeout_s``: the longest that it may take; None: without end."""

    module: ChildModule[Request, Report]
    request: Request
    wording: Wording
    on_progress: OnProgress = unheard
    max_memory_bytes: int | None = None
    timeout_s: float | None = None


class ChildEndedError(UnavailableError):
    """A child ended without a word of its own. ``how``: SIGSEGV, exit status 1. ``is_crash``: its
    process was ended, by itself or from outside; else Python ended it with a traceback."""

    def __init__(self, cause: str, remedy: str, *, how: str, is_crash: bool) -> None:
        self.how = how
        self.is_crash = is_crash
        super().__init__(cause, remedy)


def ask(job: Job[Request, Report]) -> Report:
    """Start a child, and return its report.

    Raises what the child's work raised of ``c2c_runtime.errors``, ``ChildEndedError`` if it crashed or
    was killed, and ``UnavailableError`` if it was ended by its ceiling. The child is gone then.
    """
    with _started(job) as child:
        return child.answer()


def ask_all(jobs: Sequence[Job[Any, Any]]) -> list[Any]:
    """The same with children side by side; their reports in the order of ``jobs``.

    The first error, and any exception here, ends all of them. ``on_progress`` is called by a thread of
    each job.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_started(job)) for job in jobs]
        with ThreadPoolExecutor(max(len(jobs), 1), thread_name_prefix="c2c-child") as pool:
            try:
                answers = [pool.submit(child.answer) for child in children]
                done, _ = wait(answers, return_when=FIRST_EXCEPTION)
                # Where one failed, those that are not done yet have nothing to say any more.
                return [answer.result() for answer in answers if answer in done]
            finally:
                for child in children:
                    child.process.kill()


def serve(
    module: ChildModule[Request, Report],
    work: Callable[[Request, OnProgress], Report],
    *,
    on_abandoned: Callable[[Request], None] = lambda request: None,
) -> int:
    """The child's side: do what stdin asks for. Returns the exit status, the error's if there is one.

    ``on_abandoned`` clears up when the asker is gone; the process ends from under ``work`` then, which
    may be native code that cannot be interrupted.
    """
    answers = _claim_stdout()
    request = module.request.validate_json(sys.stdin.buffer.readline())
    threading.Thread(
        target=_leave_with_the_asker, args=(on_abandoned, request), daemon=True
    ).start()
    try:
        report = work(request, lambda fraction, doing: _tell(answers, progress=[fraction, doing]))
    except MemoryError:
        error: C2CError = UnavailableError(
            "there is not enough memory", "close other programs, or use a machine with more memory"
        )
    except C2CError as raised:
        error = raised
    else:
        _tell(answers, report=module.report.dump_python(report, mode="json"))
        return 0
    _tell(answers, error=_json_from_error(error))
    return error.exit_code


@dataclass(frozen=True)
class _Child(Generic[Request, Report]):
    job: Job[Request, Report]
    process: subprocess.Popen[str]
    stderr: IO[bytes]

    def answer(self) -> Report:
        """Hand over the request, follow the work, and return or raise its last word."""
        with _Ceiling(self).watched():
            self._hand_over()
            last = self._follow()
        if "report" in last:
            return self.job.module.report.validate_python(last["report"])
        raise _error_from_json(last["error"]) if "error" in last else self._end()

    def _hand_over(self) -> None:
        assert self.process.stdin is not None
        request = self.job.module.request.dump_json(self.job.request).decode()
        with suppress(OSError):  # it is dead already: its end says why
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()

    def _follow(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        last: dict[str, Any] = {}
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # printed before stdout was claimed, by an import
                continue
            if "progress" in message:
                self.job.on_progress(*message["progress"])
            else:
                last = message
        self.process.wait()
        return last

    def _end(self) -> ChildEndedError:
        """The error of a child that said nothing."""
        code, wording = self.process.returncode, self.job.wording
        is_crash = code < 0 or code > 255  # of Windows: 0xC0000005
        how = f"exit status {code if code < 256 else hex(code)}"
        if code < 0:
            with suppress(ValueError):  # a signal without a name
                how = signal.Signals(-code).name
        if code == _KILLED:
            cause = f"{wording.work} was killed, most likely by the system for want of memory"
            return ChildEndedError(cause, wording.if_killed, how=how, is_crash=True)
        cause = f"{wording.work} crashed ({how}){self._last_words()}"
        return ChildEndedError(cause, wording.if_crashed, how=how, is_crash=is_crash)

    def _last_words(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines[-_NUM_LAST_WORDS:])


@contextmanager
def _started(job: Job[Request, Report]) -> Iterator[_Child[Request, Report]]:
    """A child that runs; it is gone when this ends."""
    with tempfile.TemporaryFile() as stderr:
        # A session or group of its own: a terminal's Ctrl-C comes to the asker alone, which ends it.
        process = subprocess.Popen(
            [sys.executable, "-m", job.module.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            yield _Child(job, process, stderr)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what was not handed over stays in the pipe
                        stream.close()


class _Ceiling:
    """Ends a child that holds too much or takes too long.

    Resident memory is watched, not limited: a limit on the address space would also count what CUDA
    only reserves.
    """

    def __init__(self, child: _Child[Any, Any]) -> None:
        self._job = child.job
        self._process = child.process
        self._done = threading.Event()
        self._passed: UnavailableError | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs. Raises ``UnavailableError`` if the child was ended."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
        if self._passed is not None:
            raise self._passed

    def _watch(self) -> None:
        started = time.monotonic()
        while self._passed is None and not self._done.wait(_LOOK_EVERY_S):
            self._passed = self._look(time.monotonic() - started)
        if self._passed is not None:
            self._process.kill()

    def _look(self, taken_s: float) -> UnavailableError | None:
        most, longest, wording = self._job.max_memory_bytes, self._job.timeout_s, self._job.wording
        held = None if most is None else held_bytes(self._process.pid)
        if most is not None and held is not None and held > most:
            return UnavailableError(
                f"{wording.work} took {held / _MIB:.0f} MiB of memory, more than the "
                f"{most / _MIB:.0f} MiB it may take",
                wording.if_too_large,
            )
        if longest is not None and taken_s > longest:
            return UnavailableError(
                f"{wording.work} was not done after {longest:g} s", wording.if_too_slow
            )
        return None


def _claim_stdout() -> TextIO:
    """Stdout for answers only: from here on, everything that prints to it prints to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers


def _tell(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")


def _leave_with_the_asker(on_abandoned: Callable[[Request], None], request: Request) -> None:
    # Not sys.stdin: a thread that waits in it keeps the interpreter from ending.
    while os.read(0, 4096):
        pass
    try:
        on_abandoned(request)
    finally:
        os._exit(_NO_ASKER)


def _json_from_error(error: C2CError) -> dict[str, Any]:
    """An error as plain types. One of a class that only the child knows comes as what it is a kind of."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
    if isinstance(error, InputError):
        problems = [[problem.cause, problem.remedy] for problem in error.problems]
        return {"kind": kind, "headline": error.headline, "problems": problems}
    return {"kind": kind, "cause": error.cause, "remedy": error.remedy}


def _error_from_json(data: dict[str, Any]) -> C2CError:
    kind: type[Any] = getattr(errors, data["kind"])
    if issubclass(kind, InputError):
        problems = [Problem(cause, remedy) for cause, remedy in data["problems"]]
        return kind(data["headline"], problems)
    error: C2CError = kind(data["cause"], data["remedy"])
    return error
