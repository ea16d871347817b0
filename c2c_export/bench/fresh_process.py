"""A bundle in a process of its own: how fast the first token comes from nothing, and what it holds.

python -m c2c_export.bench.fresh_process    (the child, see ``json_child``)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from c2c_runtime.answers.generation import GenerationOptions, Piece
from c2c_runtime.answers.session import Session
from c2c_runtime.machine.backend_choice import Wish
from c2c_runtime.machine.json_child import ChildModule, Job, Wording, ask, serve
from c2c_runtime.machine.process_memory import forget_peak, held_bytes, peak_bytes
from c2c_runtime.progress import OnProgress

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Request:
    """What the process is to do: open ``bundle`` and answer ``ids``. ``started_s``: when it was
    started, by ``time.time``."""

    bundle: str
    ids: tuple[int, ...]
    num_new: int
    device: Wish = "auto"
    num_threads: int | None = None
    started_s: float = 0.0


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


CHILD: ChildModule[Request, FreshProcess] = ChildModule(
    "c2c_export.bench.fresh_process", TypeAdapter(Request), TypeAdapter(FreshProcess)
)


def measure_fresh(request: Request) -> FreshProcess:
    """Start the process, once. Raises what opening and answering raise there, and
    ``UnavailableError`` with its last words if it crashes."""
    wording = Wording(
        f"{request.bundle} in a process of its own",
        if_crashed="answer with the same bundle by `c2c-export run`, which says more",
    )
    started = replace(request, started_s=time.time())
    return ask(Job(CHILD, started, wording, timeout_s=_TIMEOUT_S))


def answer(request: Request, on_progress: OnProgress) -> FreshProcess:
    """Open, answer, and say what it took. Runs in the fresh process."""
    base = held_bytes() or 0
    started = time.perf_counter()
    before = time.time() - request.started_s
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


if __name__ == "__main__":
    sys.exit(serve(CHILD, answer))
