"""One conversation: the Receiver's cache, one cache a Sharer, and the chain over them.

A section runs through the Receiver and through every Sharer, then the Fuser replaces the Receiver's
slice of it. The last section and every decode step run through the Receiver alone. Sharer caches
stay clean and advance also over sections that are not fused. Sections share passes where they can
(``section_passes``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest

from c2c_runtime.arguments import check_count
from c2c_runtime.bundle import names
from c2c_runtime.chain.all_or_nothing import AllOrNothing
from c2c_runtime.chain.bound_fuser import BoundFuser
from c2c_runtime.chain.bound_model import BoundModel
from c2c_runtime.chain.kv_cache import KVCache, allocate_cache
from c2c_runtime.chain.logits import Logits
from c2c_runtime.chain.one_user import OneUser
from c2c_runtime.chain.open_bundle import OpenBundle
from c2c_runtime.chain.section_passes import Reading, SectionPasses, even_parts, plan_passes
from c2c_runtime.chain.section_record import SectionRecord
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section
from c2c_runtime.sections.section_rules import SectionRules, checked_sections


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

    Not for several threads at once: the second call is refused with ``UsageError``, like every call of a
    closed bundle. Several conversations of one open bundle are independent.
    ``turn`` of some methods: any object that stands for an answer. Who began with it goes on with it, and
    is refused with ``UsageError`` where another call has changed the caches since. None: nobody asks.
    A call that fails, also by Ctrl-C, leaves the caches as they were before it. Only ``prefill`` does
    so for ``UsageError`` and ``CapacityError`` alone: see there.
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
        self._user = OneUser("this conversation")
        self._receiver = BoundModel(
            opened.graph(names.RECEIVER), self.receiver, pair.receiver.vocab_size
        )
        self._bound_sharers: list[BoundModel | None] = [None] * len(self.sharers)
        self._bound_fuser: BoundFuser | None = None

    @property
    def opened(self) -> OpenBundle:
        """Whose conversation this is."""
        return self._opened

    def prefill(self, sections: Sequence[Section], turn: object = None) -> Logits:
        """Bring the caches to a prompt's end; returns the logits after its last token.

        The last section runs through the Receiver alone. What the caches already hold of the
        prompt's beginning is kept, so a chat's next turn costs only what it adds: sections that
        begin the same way stay, and an answer that the Receiver decoded and the new prompt repeats
        is not run through it again, only read by the Sharers and fused.
        Raises ``UsageError`` and ``CapacityError`` before anything changes. Any other error, Ctrl-C for
        one, comes when the caches have gone back to what they share with the prompt: they then hold
        some of its first sections, perhaps none, and the next prompt, this one or another, is answered
        as in a new conversation.
        """
        with self._user:
            self._opened.require_open()
            self.require(sections)
            self._user.begin_turn(turn)
            *fused, last = sections
            with self._all_or_nothing():
                self._record.keep_common(fused)
            self._opened.prefixes.restore(self._record, self.receiver, self.sharers, fused)
            self._extend(fused[len(self._record.sections) :])
            self._keep()
            start = time.perf_counter()
            logits = self._decode(last.receiver_ids, last.span)
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
        with self._user:
            self._opened.require_open()
            for section in checked_sections(sections):
                self._rules.check_section(section)
            self._user.begin_turn(None)
            self._extend(sections)

    def decode(self, ids: Sequence[int], turn: object = None) -> Logits:
        """Run ``ids`` through the Receiver alone: the last section of a prompt, or a decode step.

        Returns the logits after the last id, which the next call overwrites.
        Raises ``UsageError`` and ``CapacityError`` before anything is written.
        """
        with self._user:
            self._opened.require_open()
            self._user.require_turn(turn)
            self._rules.check_ids(0, ids)
            if len(ids) == 0:
                raise UsageError("there is nothing to decode from", "give at least one token")
            self.receiver.require(len(ids))
            self._user.begin_turn(turn)
            return self._decode(ids)

    def rewind(self, num_tokens: int, turn: object = None) -> None:
        """Take back the last ``num_tokens`` that ``decode`` ran, so that others can be tried instead.

        Raises ``UsageError`` where ids were not run by the Receiver alone, or are not in the cache.
        """
        check_count("num_tokens", num_tokens)
        with self._user:
            self._user.require_turn(turn)
            self._user.begin_turn(turn)
            with self._all_or_nothing():
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
        with self._user:
            self._load_sharers()

    def _load_sharers(self) -> None:
        self._opened.load(self._opened.fusing_roles)
        for number, cache in enumerate(self.sharers, start=1):
            if cache.buffers:
                self._sharer(number)
        self._fuser()

    def keep(self) -> bool:
        """Keep a copy of the sections in the caches, for conversations of this bundle that begin the
        same way. Returns whether it is kept: not without room in its ``prefixes``."""
        with self._user:
            return self._keep()

    def _keep(self) -> bool:
        if not self._record.is_true:
            return False
        return self._opened.prefixes.keep(self._record, self.receiver, self.sharers)

    def reset(self) -> None:
        """Forget everything said; the buffers are kept, uncleared, for the next conversation."""
        with self._user:
            self._user.begin_turn(None)
            self._record.forget()
            self.times = StageTimes()

    def _extend(self, sections: Sequence[Section]) -> None:
        """``extend`` of sections that were checked."""
        if not sections:
            return
        record = self._record
        loose = record.loose_section
        plan = plan_passes(
            sections,
            self.receiver,
            self.sharers,
            num_held=record.num_adoptable(sections),
            unread_span=loose.span if loose else 0,
            is_fusing=self._opened.bundle.has_graph(names.FUSER),
        )
        self._load_sharers()
        with self._all_or_nothing():
            for cache in self.sharers:
                cache.skip(loose.span if loose else 0)
            self._run(plan, sum(section.span for section in sections))
            num_left_ids = 0 if plan.writes_receiver else record.num_left_ids - plan.num_held_ids
            record.add_sections([loose, *sections] if loose else sections, num_left_ids)

    def _run(self, plan: SectionPasses, span: int) -> None:
        """The passes of sections that span so many positions."""
        caches = (self.receiver, *self.sharers)
        ends = [cache.next_position + span for cache in caches]
        self.receiver.advance(plan.num_held_ids)
        fuser = self._fuser()
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
        for cache, end in zip(caches, ends, strict=True):
            cache.skip(end - cache.next_position)

    def _decode(self, ids: Sequence[int], span: int | None = None) -> Logits:
        """``decode`` of ids that were checked. ``span``: the positions they occupy; None: one each."""
        with AllOrNothing(self.receiver, self._record):
            if len(ids) == 1:
                self._receiver.step(ids[0])
            else:
                for part in even_parts(len(ids), self._longest_pass):
                    self._receiver.prefill(ids[part])
            if span is not None:
                self.receiver.skip(span - len(ids))
            self._record.add_loose_ids(ids)
        return self._receiver.logits

    def _all_or_nothing(self) -> AllOrNothing:
        return AllOrNothing(self.receiver, *self.sharers, self._record)

    def _read_together(self, readings: Sequence[tuple[BoundModel, Reading]]) -> None:
        """Prefill Receiver, the first, and Sharers side by side where the backend can, chunk by chunk.

        A model's time is that of starting it and, from when all are started, of waiting for it: what
        runs side by side counts for each.
        """
        spent = [0.0] * len(readings)
        chunks = [reading.chunks(self._longest_pass) for _, reading in readings]

        def wait(index: int) -> None:
            begin = time.perf_counter()
            readings[index][0].wait()
            spent[index] += time.perf_counter() - begin

        for parts in zip_longest(*chunks):
            started = [(index, part) for index, part in enumerate(parts) if part is not None]
            with ExitStack() as waits:  # one that fails leaves none that still computes
                for index, _ in reversed(started):
                    waits.callback(wait, index)
                for index, part in started:
                    begin = time.perf_counter()
                    readings[index][0].start_prefill(part)
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
