"""A bundle as contenders: the chain, both prefills without the Fuser, and the Receiver alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from c2c_export.bench.contender import MeasuredMode, Run
from c2c_export.bench.timed_backend import GraphCall, TimedBackend, covered_s
from c2c_export.reports.stage_names import FIRST_STEP, FUSE, PREFILLS, RECEIVER, RUNTIME, SHARER
from c2c_runtime.answers.generation import Answer, GenerationOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.backends.devices import open_backend
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.cache_spec import CacheSpec
from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.chain.kv_cache import KVCache, allocate_cache
from c2c_runtime.errors import CapacityError
from c2c_runtime.machine.backend_choice import Wish
from c2c_runtime.sections.alignment import UNFUSED, Section


class MeasuredBundle:
    """A bundle that is open for measurements, with one conversation that they take turns with."""

    def __init__(
        self, path: Path, label: str, *, device: Wish = "auto", num_threads: int | None = None
    ) -> None:
        self.label = label
        self._device: Wish = device
        self._num_threads = num_threads
        self.baseline_backends: list[
            TimedBackend
        ] = []  # of Sharers that speak, the first one's first
        self.bundle = Bundle.open(path, with_engines=device in ("auto", "tensorrt"))
        self.backend = self._timed(self.bundle)
        try:
            self.session = Session(self.bundle, self.backend, open_backend=self._for_baseline)
            self.conversation = self.session.conversation()
        except BaseException:
            self.backend.close()
            raise

    def _timed(self, bundle: Bundle) -> TimedBackend:
        return TimedBackend(open_backend(bundle, self._device, num_threads=self._num_threads))

    def _for_baseline(self, bundle: Bundle) -> TimedBackend:
        self.baseline_backends.append(self._timed(bundle))
        return self.baseline_backends[-1]

    @property
    def caches_bytes(self) -> int:
        """Bytes of the caches of one conversation."""
        caches = [self.conversation.receiver, *self.conversation.sharers]
        return sum(cache.size_bytes for cache in caches)

    def conversation_of(self, max_seq_len: int) -> Conversation:
        """A further conversation whose caches hold ``max_seq_len`` tokens. Raises ``CapacityError``
        where graphs fix the capacity."""
        if any(graph.dialect != "ort" for graph in self.bundle.manifest.graphs):
            raise CapacityError(
                f"the graphs of {self.label} hold {self.bundle.manifest.limits.max_seq_len} tokens, "
                "whatever the caches are",
                "leave out --sweep capacity",
            )
        num_sharers = len(self.bundle.manifest.pair.sharers)
        sharers = [
            self._cache(self.bundle.sharer_caches(number + 1), max_seq_len)
            for number in range(num_sharers)
        ]
        receiver = self._cache(self.bundle.receiver_caches, max_seq_len)
        return Conversation(self.session.opened, receiver, sharers)

    def _cache(self, spec: CacheSpec, max_seq_len: int) -> KVCache:
        limits = replace(spec.limits, max_seq_len=max_seq_len)
        return allocate_cache(replace(spec, limits=limits), self.session.opened.memory)

    def run(
        self,
        ids: Sequence[int],
        num_new: int,
        mode: MeasuredMode = "c2c",
        conversation: Conversation | None = None,
    ) -> Run:
        """One answer, timed as a user has it: through ``Session.answer``."""
        conversation = conversation or self.conversation
        sections = self._sections(ids, mode)
        options = GenerationOptions(
            max_new_tokens=num_new,
            mode="receiver" if mode == "receiver" else "c2c",
            ignore_eos=True,
        )
        conversation.reset()
        if mode != "receiver":
            conversation.load_sharers()
        answer = self.session.answer(sections, options, conversation)
        stages_of = partial(one_prefill, RECEIVER) if mode == "receiver" else split
        return timed_run(answer, self.backend, num_new, stages_of)

    def _sections(self, ids: Sequence[int], mode: MeasuredMode) -> list[Section]:
        if mode == "prefills":
            return self.session.sections_of_ids(ids, [(len(ids) - 1, UNFUSED), (1, UNFUSED)])
        return self.session.sections_of_ids(ids)

    def close(self) -> None:
        """Release graphs and caches."""
        self.session.close()


def timed_run(
    answer: Answer,
    backend: TimedBackend,
    num_new: int,
    stages_of: Callable[[Sequence[GraphCall], float], dict[str, float]],
) -> Run:
    """The times of an answer of ``num_new`` tokens that has not begun. ``stages_of``: the calls of
    ``backend`` and the time to the first token, by stage."""
    pieces = iter(answer)
    backend.take_calls()
    started = time.perf_counter()
    token_ids = [next(pieces).token_id]
    first_token_s = time.perf_counter() - started
    stages = stages_of(backend.take_calls(), first_token_s)
    steps, graph_steps = [], []
    for _ in range(num_new - 1):
        started = time.perf_counter()
        piece = next(pieces)
        steps.append(time.perf_counter() - started)
        graph_steps.append(sum(call.seconds for call in backend.take_calls()))
        token_ids.append(piece.token_id)
    return Run(first_token_s, stages, tuple(steps), tuple(graph_steps), tuple(token_ids))


def split(calls: Sequence[GraphCall], first_token_s: float) -> dict[str, float]:
    """The time to the first token by stage. The Receiver's last call is the first step; what no graph
    accounts for is the runtime's."""
    receiver = [call for call in calls if call.role == names.RECEIVER]
    sharers = [call for call in calls if call.role.startswith("sharer")]
    fuse = [call for call in calls if call.role == names.FUSER]
    prefill, first_step = receiver[:-1], receiver[-1:]
    return {
        SHARER: _sum(sharers),
        RECEIVER: _sum(prefill),
        PREFILLS: covered_s([*sharers, *prefill]),
        FUSE: _sum(fuse),
        FIRST_STEP: _sum(first_step),
        RUNTIME: first_token_s - covered_s(calls),
    }


def one_prefill(stage: str, calls: Sequence[GraphCall], first_token_s: float) -> dict[str, float]:
    """One model's calls are all of the time that graphs account for."""
    taken = covered_s(calls)
    parts = dict.fromkeys((SHARER, RECEIVER, FUSE, FIRST_STEP), 0.0)
    return parts | {stage: taken, PREFILLS: taken, RUNTIME: first_token_s - taken}


def _sum(calls: Sequence[GraphCall]) -> float:
    return sum(call.seconds for call in calls)


class BundleContender:
    """``Contender``: an open bundle in one mode."""

    is_peer = False

    def __init__(self, opened: MeasuredBundle, mode: MeasuredMode) -> None:
        self.opened = opened
        self.mode: MeasuredMode = mode
        self.name = f"{opened.label} {mode}"

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One answer."""
        return self.opened.run(ids, num_new, self.mode)

    def close(self) -> None:
        """The bundle is shared with other modes and closed by who opened it."""
