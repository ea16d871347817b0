"""A bundle in a process of its own: how fast the first token comes from nothing, and what it holds.

python -m c2c_export.bench.fresh_process < request.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from c2c_runtime.answers.generation import GenerationOptions, Piece
from c2c_runtime.answers.session import Session
from c2c_runtime.errors import UnavailableError
from c2c_runtime.machine.backend_choice import Wish
from c2c_runtime.machine.process_memory import forget_peak, held_bytes, peak_bytes

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Request:
    """What the process is to do: open ``bundle`` and answer ``ids``."""

    bundle: str
    ids: tuple[int, ...]
    num_new: int
    device: Wish = "auto"
    num_threads: int | None = None


@dataclass(frozen=True)
class FreshProcess:
    """What it came to. The files were read before, so the disk's speed is not in it.

    ``open_s``: until the session is open. ``first_token_s``: from the start of opening until the first
    id is there. ``process_s``: the same from the start of the process, Python's imports included.
    ``loaded_bytes``, ``running_bytes``: the most memory (resident, mapped files included) until the
    first id, and after that; equal where the system keeps one number only. ``base_bytes``: before the
    bundle was opened. ``caches_bytes``: of the conversation.
    """

    open_s: float
    first_token_s: float
    process_s: float
    base_bytes: int
    loaded_bytes: int
    running_bytes: int
    caches_bytes: int


def measure_fresh(request: Request) -> FreshProcess:
    """Start the process, once; raises ``UnavailableError`` with its last words if it fails."""
    started = time.time()
    called = subprocess.run(
        [sys.executable, "-m", "c2c_export.bench.fresh_process"],
        input=json.dumps(asdict(request) | {"started": started}),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if called.returncode:
        words = called.stderr.strip().splitlines() or [f"it ended with {called.returncode}"]
        raise UnavailableError(f"{request.bundle} in a process of its own failed: {words[-1]}")
    return FreshProcess(**json.loads(called.stdout))


def answer(request: Request, process_started: float) -> FreshProcess:
    """Open, answer, and say what it took. Runs in the fresh process."""
    base = held_bytes() or 0
    started = time.perf_counter()
    before = time.time() - process_started
    with Session.open(
        request.bundle, device=request.device, num_threads=request.num_threads
    ) as session:
        open_s = time.perf_counter() - started
        conversation = session.conversation()
        options = GenerationOptions(max_new_tokens=request.num_new, ignore_eos=True)
        sections = session.sections_of_ids(request.ids)
        pieces = iter(session.answer(sections, options, conversation))
        next(pieces)
        first_token_s = time.perf_counter() - started
        loaded = peak_bytes() or held_bytes() or 0
        forget_peak()
        # Once more, now that everything is loaded: prefill and decode steps as they go on.
        _all_pieces(pieces)
        conversation.reset()
        _all_pieces(iter(session.answer(sections, options, conversation)))
        running = peak_bytes() or held_bytes() or 0
        caches = [conversation.receiver, *conversation.sharers]
        return FreshProcess(
            open_s,
            first_token_s,
            before + first_token_s,
            base,
            loaded,
            running,
            sum(cache.size_bytes for cache in caches),
        )


def _all_pieces(pieces: Iterator[Piece]) -> None:
    for _ in pieces:
        pass


def main() -> None:
    """Read a request from stdin and print the result as JSON."""
    fields = json.load(sys.stdin)
    started: float = fields.pop("started")
    ids: Sequence[int] = fields.pop("ids")
    print(json.dumps(asdict(answer(Request(ids=tuple(ids), **fields), started))))


if __name__ == "__main__":
    main()
