"""One conversation: the Receiver's cache, one cache a Sharer, and the chain over them.

A section runs through the Receiver and through every Sharer, then the Fuser replaces the Receiver's
slice of it. The last section and every decode step run through the Receiver alone. Sharer caches
stay clean and advance also over sections that are not fused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2c_runtime import names
from c2c_runtime.errors import UsageError
from c2c_runtime.kv_cache import KVCache
from c2c_runtime.ort_backend import BoundGraph, OrtGraph

if TYPE_CHECKING:
    from c2c_runtime.session import Session

NOT_FUSED = -1


@dataclass
class StageTimes:
    """Seconds spent in each stage since the conversation began or was reset."""

    sharer_prefill_s: float = 0.0
    receiver_prefill_s: float = 0.0
    fuse_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0


class Conversation:
    """Caches and bound graphs of one conversation. Buffers are allocated once, here.

    Not for several threads at once; several conversations of one session are independent.
    A failed call leaves the caches as they were before it.
    """

    def __init__(self, session: Session) -> None:
        pair, limits = session.bundle.manifest.pair, session.bundle.manifest.limits
        self._max_prompt_len = limits.max_prompt_len
        self._vocab_sizes = [pair.receiver.vocab_size, *(s.dims.vocab_size for s in pair.sharers)]
        self.receiver = KVCache(
            "Receiver",
            pair.receiver.num_layers,
            pair.receiver.num_kv_heads,
            limits.max_seq_len,
            pair.receiver.head_dim,
        )
        self.sharers = [
            KVCache(
                "Sharer",
                sharer.num_cached_layers,
                sharer.dims.num_kv_heads,
                limits.max_seq_len,
                sharer.dims.head_dim,
            )
            for sharer in pair.sharers
        ]
        self.times = StageTimes()
        self._logits = np.zeros((1, pair.receiver.vocab_size), np.float32)
        receiver = session.graph(names.RECEIVER)
        self._receiver = BoundModel(receiver, self.receiver, self._logits)
        self._session = session
        self._bound_sharers: list[BoundModel | None] = [None] * len(self.sharers)
        self._bound_fuser: BoundGraph | None = None

    def append(
        self,
        receiver_ids: Sequence[int],
        sharer_ids: Sequence[Sequence[int]],
        sharers: int = NOT_FUSED,
        span: int | None = None,
    ) -> None:
        """Run one section: Receiver prefill, Sharer prefill, fuse.

        ``sharer_ids``: one sequence a Sharer. ``sharers``: bitmask of those that are fused (bit i is
        Sharer i + 1), -1 for none; a fused Sharer needs as many ids as the Receiver. ``span``: the
        positions the section occupies, at least the longest sequence (the default).
        Raises ``UsageError`` and ``CapacityError`` before anything is written.
        """
        self._check_section(receiver_ids, sharer_ids, sharers)
        span = max(len(receiver_ids), *map(len, sharer_ids)) if span is None else span
        used = [
            (number, cache, ids)
            for number, (cache, ids) in enumerate(
                zip(self.sharers, sharer_ids, strict=True), start=1
            )
            if cache.buffers
        ]
        self.receiver.require(len(receiver_ids))
        for _, cache, ids in used:
            cache.require(len(ids))
        self.load_sharers()
        with self._all_or_nothing():
            start = time.perf_counter()
            receiver_start = self.receiver.length
            self._prefill(self._receiver, receiver_ids)
            self.receiver.skip(span - len(receiver_ids))
            self.times.receiver_prefill_s += time.perf_counter() - start
            start = time.perf_counter()
            sharer_starts = [cache.length for cache in self.sharers]
            for number, cache, ids in used:
                self._prefill(self._sharer(number), ids)
                cache.skip(span - len(ids))
            self.times.sharer_prefill_s += time.perf_counter() - start
            if sharers != NOT_FUSED:
                start = time.perf_counter()
                self._fuse(receiver_start, sharer_starts, len(receiver_ids), sharers)
                self.times.fuse_s += time.perf_counter() - start

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Run ``ids`` through the Receiver alone: the last section of a prompt, or a decode step.

        Returns the logits after the last id, float32 [vocab_size]: a view that the next call
        overwrites.
        """
        if not ids:
            raise UsageError("there is nothing to decode from", "give at least one token")
        self._check_ids(0, ids)
        self.receiver.require(len(ids))
        with self._all_or_nothing():
            if len(ids) == 1:
                self._receiver.step(ids[0])
            else:
                self._prefill(self._receiver, ids)
        logits: np.ndarray = self._logits[0]
        return logits

    def load_sharers(self) -> None:
        """Load and bind what only fusing needs, so that the first section does not wait for it."""
        for number, cache in enumerate(self.sharers, start=1):
            if cache.buffers:
                self._sharer(number)
        self._fuser()

    def reset(self) -> None:
        """Forget everything said; the buffers are kept, uncleared, for the next conversation."""
        self.receiver.reset()
        for cache in self.sharers:
            cache.reset()
        self.times = StageTimes()

    def _prefill(self, model: BoundModel, ids: Sequence[int]) -> None:
        for first in range(0, len(ids), self._max_prompt_len):
            model.prefill(ids[first : first + self._max_prompt_len])

    def _fuse(self, start: int, sharer_starts: list[int], length: int, sharers: int) -> None:
        """Fuse the section at ``start``, in chunks: a token's fusion needs no other token."""
        fuser = self._fuser()
        if fuser is None:
            return
        several = len(self.sharers) > 1
        for first in range(0, length, self._max_prompt_len):
            offsets = np.arange(first, min(first + self._max_prompt_len, length), dtype=np.int64)
            fuser.set_input(names.SLOTS, start + offsets)
            for number, sharer_start in enumerate(sharer_starts, start=1):
                fuser.set_input(names.sharer_slots(number), sharer_start + offsets)
                if several:
                    enabled = np.array([bool(sharers >> (number - 1) & 1)])
                    fuser.set_input(names.sharer_enabled(number), enabled)
            fuser.run()

    def _sharer(self, number: int) -> BoundModel:
        bound = self._bound_sharers[number - 1]
        if bound is None:
            graph = self._session.graph(names.sharer(number))
            bound = BoundModel(graph, self.sharers[number - 1], None)
            self._bound_sharers[number - 1] = bound
        return bound

    def _fuser(self) -> BoundGraph | None:
        if self._bound_fuser is None and self._session.bundle.graph(names.FUSER) is not None:
            inputs = {names.past(*key): buffer for key, buffer in self.receiver.buffers.items()}
            outputs = {names.present(*key): buffer for key, buffer in self.receiver.buffers.items()}
            for number, cache in enumerate(self.sharers, start=1):
                for (layer, kind), buffer in cache.buffers.items():
                    inputs[names.sharer_cache(number, layer, kind)] = buffer
            self._bound_fuser = self._session.graph(names.FUSER).bind(inputs, outputs)
        return self._bound_fuser

    def _check_section(
        self, receiver_ids: Sequence[int], sharer_ids: Sequence[Sequence[int]], sharers: int
    ) -> None:
        num_sharers = len(self.sharers)
        if len(sharer_ids) != num_sharers:
            raise UsageError(
                f"a section came with ids for {len(sharer_ids)} Sharers; the pair has {num_sharers}",
                "give one sequence of ids a Sharer",
            )
        if sharers != NOT_FUSED and not 0 <= sharers < 2**num_sharers:
            raise UsageError(
                f"the Sharer mask {sharers} names a Sharer that this pair of {num_sharers} has not",
                f"use -1 (not fused) or a bitmask below {2**num_sharers}",
            )
        for index, ids in enumerate([receiver_ids, *sharer_ids]):
            self._check_ids(index, ids)
        for number, ids in enumerate(sharer_ids, start=1):
            fused = sharers != NOT_FUSED and sharers >> (number - 1) & 1
            if fused and len(ids) != len(receiver_ids):
                raise UsageError(
                    f"a fused section has {len(receiver_ids)} Receiver tokens but {len(ids)} tokens "
                    f"for Sharer {number}",
                    "fused sections map token by token: give as many",
                )

    def _check_ids(self, index: int, ids: Sequence[int]) -> None:
        vocab_size = self._vocab_sizes[index]
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                who = "Receiver" if index == 0 else f"Sharer {index}"
                raise UsageError(
                    f"token id {token_id} is not in the {who}'s vocabulary of {vocab_size}",
                    f"use ids from 0 to {vocab_size - 1}",
                )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        caches = [self.receiver, *self.sharers]
        before = [(cache.length, cache.next_position) for cache in caches]
        try:
            yield
        except BaseException:
            for cache, state in zip(caches, before, strict=True):
                cache.truncate(*state)
            raise


class BoundModel:
    """A Receiver or Sharer graph bound to one cache: prefill of many tokens, decode step of one."""

    def __init__(self, graph: OrtGraph, cache: KVCache, logits: np.ndarray | None) -> None:
        self.cache = cache
        self._past_length = np.zeros(1, np.int64)
        self._step_id = np.zeros((1, 1), np.int64)
        self._step_position = np.zeros((1, 1), np.int64)
        inputs = {names.past(*key): buffer for key, buffer in cache.buffers.items()}
        inputs |= {
            names.PAST_LENGTH: self._past_length,
            names.KEY_POSITIONS: cache.key_positions,
            names.TOKEN_IDS: self._step_id,
            names.POSITIONS: self._step_position,
        }
        outputs = {names.present(*key): buffer for key, buffer in cache.buffers.items()}
        if logits is not None:
            outputs[names.LOGITS] = logits
        self._prefill = graph.bind(inputs, outputs)
        self._step = graph.bind(inputs, outputs)

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ``ids`` to the cache; logits of the last one where the graph has logits."""
        positions = self.cache.claim(len(ids))
        self._past_length[0] = self.cache.length
        self._prefill.set_input(names.TOKEN_IDS, np.array([ids], np.int64))
        self._prefill.set_input(names.POSITIONS, positions)
        self._prefill.run()
        self.cache.advance(len(ids))

    def step(self, token_id: int) -> None:
        """Append one token. Nothing is bound or allocated here: the bound memory is rewritten."""
        self._step_position[:] = self.cache.claim(1)
        self._step_id[0, 0] = token_id
        self._past_length[0] = self.cache.length
        self._step.run()
        self.cache.advance(1)
