"""One conversation: the Receiver's cache, one cache a Sharer, and the chain over them.

A section runs through the Receiver and through every Sharer, then the Fuser replaces the Receiver's
slice of it. The last section and every decode step run through the Receiver alone. Sharer caches
stay clean and advance also over sections that are not fused. Sections share passes where they can
(``section_passes``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from c2c_runtime.bundle import names
from c2c_runtime.chain.bound_fuser import BoundFuser
from c2c_runtime.chain.bound_model import BoundModel
from c2c_runtime.chain.kv_cache import AllOrNothing, KVCache, allocate_cache
from c2c_runtime.chain.logits import Logits
from c2c_runtime.chain.open_bundle import OpenBundle
from c2c_runtime.chain.section_passes import Reading, even_parts, plan_passes
from c2c_runtime.chain.section_record import SectionRecord
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section
from c2c_runtime.sections.section_rules import SectionRules


@dataclass
class StageTimes:
    """Seconds spent in each stage since the conversation began or was reset."""

    sharer_prefill_s: float = 0.0
    receiver_prefill_s: float = 0.0
    fuse_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0


class Conversation:
    """Caches and bound graphs of one conversation. Buffers are allocated once.

    Not for several threads at once; several conversations of one open bundle are independent.
    A failed call leaves the caches as they were before it.
    """

    def __init__(
        self,
        opened: OpenBundle,
        receiver: KVCache | None = None,
        sharers: Sequence[KVCache] | None = None,
    ) -> None:
        """``receiver`` and ``sharers``: caches to use, such as a row of a batch; None: new ones."""
        bundle, memory = opened.bundle, opened.memory
        pair = bundle.manifest.pair
        limits = bundle.manifest.limits
        # Never the whole cache at once: see ``lowering_ort``, gaps between positions need one slot more.
        longest = min(limits.max_prompt_len, limits.max_seq_len - 1)
        self._longest_pass = max(1, min(longest, opened.max_pass_len or longest))
        needs_whole = any(link.fuses_whole_sections for link in pair.sharers)
        self._fused_chunk = None if needs_whole else limits.max_prompt_len
        self._rules = SectionRules(pair)
        self.receiver = receiver or allocate_cache(bundle.receiver_caches, memory)
        self.sharers = (
            [
                allocate_cache(bundle.sharer_caches(number), memory)
                for number in range(1, len(pair.sharers) + 1)
            ]
            if sharers is None
            else list(sharers)
        )
        self.times = StageTimes()
        self._record = SectionRecord(self.receiver, self.sharers)
        self._opened = opened
        self._receiver = BoundModel(
            opened.graph(names.RECEIVER), self.receiver, pair.receiver.vocab_size
        )
        self._bound_sharers: list[BoundModel | None] = [None] * len(self.sharers)
        self._bound_fuser: BoundFuser | None = None

    @property
    def opened(self) -> OpenBundle:
        """Whose conversation this is."""
        return self._opened

    def prefill(self, sections: Sequence[Section]) -> Logits:
        """Bring the caches to a prompt's end; returns the logits after its last token.

        The last section runs through the Receiver alone. What the caches already hold of the
        prompt's beginning is kept, so a chat's next turn costs only what it adds: sections that
        begin the same way stay, and an answer that the Receiver decoded and the new prompt repeats
        is not run through it again, only read by the Sharers and fused.
        Raises ``UsageError`` and ``CapacityError`` before anything is written.
        """
        self.require(sections)
        *fused, last = sections
        self._record.keep_common(fused)
        self._opened.prefixes.restore(self._record, self.receiver, self.sharers, fused)
        self.extend(fused[len(self._record.sections) :])
        self.keep()
        start = time.perf_counter()
        self._record.drop_loose_ids()
        logits = self.decode(last.receiver_ids)
        self.receiver.skip(last.span - len(last.receiver_ids))
        self.times.receiver_prefill_s += time.perf_counter() - start
        return logits

    def append(
        self,
        receiver_ids: Sequence[int],
        sharer_ids: Sequence[Sequence[int]],
        mask: int = UNFUSED,
        span: int | None = None,
    ) -> None:
        """Run one section: Receiver prefill, Sharer prefill, fuse.

        ``sharer_ids``: one sequence a Sharer. ``mask``: bits of those that are fused (bit i is
        Sharer i + 1), -1 for none; a fused Sharer needs as many ids as the Receiver. ``span``: the
        positions the section occupies, at least the longest sequence (the default).
        Raises ``UsageError`` and ``CapacityError`` before anything is written.
        """
        section = Section.of(receiver_ids, sharer_ids, mask)
        if span is not None:
            section = Section(section.receiver_ids, section.sharer_ids, mask, span)
        self.extend([section])

    def extend(self, sections: Sequence[Section]) -> None:
        """Run sections that every model reads, in as few passes of each model as they allow.

        The caches then hold what one ``append`` a section would leave in them. A call that fails has
        run none of them. Raises ``UsageError`` and ``CapacityError`` before anything is written.
        """
        if not sections:
            return
        for section in sections:
            self._rules.check_section(section)
        num_held = self._record.num_adoptable(sections)
        plan = plan_passes(
            sections,
            self.receiver,
            self.sharers,
            num_held=num_held,
            unread_span=self._record.unread_span,
            is_fusing=self._opened.bundle.has_graph(names.FUSER),
        )
        self.load_sharers()
        fuser = self._fuser()
        loose_ids = self._record.begin(plan.num_held_ids)
        with AllOrNothing(self.receiver, *self.sharers):
            span = sum(section.span for section in sections)
            ends = [cache.next_position + span for cache in (self.receiver, *self.sharers)]
            self.receiver.advance(plan.num_held_ids)
            sharers = [
                (self._sharer(number), reading)
                for number, reading in enumerate(plan.sharers, start=1)
                if reading.ids
            ]
            for receiver_pass in plan.receiver:
                self._read_together([(self._receiver, receiver_pass.reading), *sharers])
                sharers = []
                if fuser is not None and receiver_pass.fused is not None:
                    start = time.perf_counter()
                    fuser.fuse(receiver_pass.fused, self._fused_chunk)
                    self.times.fuse_s += time.perf_counter() - start
            for cache, end in zip((self.receiver, *self.sharers), ends, strict=True):
                cache.skip(end - cache.next_position)
        self._record.sections += sections
        if not plan.writes_receiver:
            self._record.loose_ids += loose_ids

    def decode(self, ids: Sequence[int]) -> Logits:
        """Run ``ids`` through the Receiver alone: the last section of a prompt, or a decode step.

        Returns the logits after the last id, which the next call overwrites.
        """
        if not ids:
            raise UsageError("there is nothing to decode from", "give at least one token")
        self._rules.check_ids(0, ids)
        self.receiver.require(len(ids))
        with AllOrNothing(self.receiver):
            if len(ids) == 1:
                self._receiver.step(ids[0])
            else:
                for part in even_parts(len(ids), self._longest_pass):
                    self._receiver.prefill(ids[part])
        self._record.loose_ids += ids
        return self._receiver.logits

    def rewind(self, num_tokens: int) -> None:
        """Take back the last ``num_tokens`` that ``decode`` ran, so that others can be tried instead.

        Raises ``UsageError`` where ids were not run by the Receiver alone, or are not in the cache.
        """
        self._record.drop_last(num_tokens)

    def require(self, sections: Sequence[Section]) -> None:
        """Raise ``UsageError`` unless a prompt of these sections makes sense, and ``CapacityError``
        unless it fits into every cache."""
        self._rules.check_prompt(sections)
        read = sum(len(section.receiver_ids) for section in sections)
        fused_end = sum(section.span for section in sections[:-1])
        self.receiver.require(read, after=0, end=fused_end + len(sections[-1].receiver_ids))
        for index, cache in enumerate(self.sharers):
            read = sum(len(s.sharer_ids[index]) for s in sections[:-1])
            cache.require(read if cache.buffers else 0, after=0, end=fused_end)

    def load_sharers(self) -> None:
        """Load and bind what only fusing needs, so that the first section does not wait for it."""
        self._opened.load(self._opened.fusing_roles)
        for number, cache in enumerate(self.sharers, start=1):
            if cache.buffers:
                self._sharer(number)
        self._fuser()

    def keep(self) -> bool:
        """Keep a copy of the sections in the caches, for conversations of this bundle that begin the
        same way. Returns whether it is kept: not without room in its ``prefixes``."""
        if not (self._record.is_true or self._record.is_at_sections):
            return False
        return self._opened.prefixes.keep(self._record, self.receiver, self.sharers)

    def reset(self) -> None:
        """Forget everything said; the buffers are kept, uncleared, for the next conversation."""
        self._record.rewind(0)
        self._record.loose_ids.clear()
        self.times = StageTimes()

    def _read_together(self, readings: Sequence[tuple[BoundModel, Reading]]) -> None:
        """Prefill Receiver, the first, and Sharers side by side where the backend can, chunk by chunk.

        A model's time is that of starting it and, from when all are started, of waiting for it: what
        runs side by side counts for each.
        """
        spent = [0.0] * len(readings)
        chunks = [reading.chunks(self._longest_pass) for _, reading in readings]
        for parts in zip_longest(*chunks):
            started: list[int] = []
            try:
                for index, part in enumerate(parts):
                    if part is not None:
                        begin = time.perf_counter()
                        readings[index][0].start_prefill(part)
                        started.append(index)
                        spent[index] += time.perf_counter() - begin
            finally:
                begin = time.perf_counter()
                for index in started:
                    readings[index][0].wait()
                    spent[index] += time.perf_counter() - begin
        self.times.receiver_prefill_s += spent[0]
        self.times.sharer_prefill_s += sum(spent[1:])

    def _sharer(self, number: int) -> BoundModel:
        bound = self._bound_sharers[number - 1]
        if bound is None:
            graph = self._opened.graph(names.sharer(number))
            bound = BoundModel(graph, self.sharers[number - 1])
            self._bound_sharers[number - 1] = bound
        return bound

    def _fuser(self) -> BoundFuser | None:
        if self._bound_fuser is None and self._opened.bundle.has_graph(names.FUSER):
            graph = self._opened.graph(names.FUSER)
            self._bound_fuser = BoundFuser(graph, self.receiver, self.sharers)
        return self._bound_fuser
