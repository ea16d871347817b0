"""Several prompts answered together: rows of one set of Receiver buffers, one decode step for all.

A row is prefilled on its own, so its length pads nobody. Active rows are always the first ones: a row
that finishes gives its place to the last active one, or to the next prompt that waits, and costs
nothing more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from c2c_runtime.answers.generation import (
    AnswerWriter,
    Generation,
    GenerationOptions,
    check_mode_of_ids,
    sections_for_mode,
)
from c2c_runtime.answers.session import Session
from c2c_runtime.arguments import check_kind
from c2c_runtime.backends.backend import BoundGraph
from c2c_runtime.bundle import names
from c2c_runtime.chain.all_or_nothing import AllOrNothing
from c2c_runtime.chain.bound_model import has_top_logits, logits_outputs
from c2c_runtime.chain.conversation import Conversation, StageTimes
from c2c_runtime.chain.kv_cache import allocate_cache, allocate_rows, cache_bindings
from c2c_runtime.chain.logits import Logits
from c2c_runtime.chain.one_user import OneUser
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import Section
from c2c_runtime.sections.section_rules import checked_sections


@dataclass
class _Row:
    """A prompt that is being answered in one row."""

    index: int  # of the prompt
    writer: AnswerWriter
    times: StageTimes
    first_token_s: float


class Batch:
    """Buffers for ``max_batch_size`` rows and the graphs bound to them, allocated once.

    ``user``: one ``answer_batch`` at a time; another thread is refused.
    """

    def __init__(self, session: Session) -> None:
        self._opened = session.opened
        self.user = OneUser("this batch")
        bundle, memory = session.bundle, self._opened.memory
        pair, size = bundle.manifest.pair, bundle.manifest.limits.max_batch_size
        self.max_batch_size = size
        self._buffers, self.rows = allocate_rows(bundle.receiver_caches, memory, size)
        # Sharers are read before the first token only, so the rows can take turns with their caches.
        sharers = [
            allocate_cache(bundle.sharer_caches(number), memory)
            for number in range(1, len(pair.sharers) + 1)
        ]
        self._conversations = [Conversation(self._opened, row, sharers) for row in self.rows]
        self._token_ids = memory.host_array((size, 1), "int64")
        self._positions = memory.host_array((size, 1), "int64")
        self._past_length = memory.host_array((size,), "int64")
        self._outputs = logits_outputs(memory, size, pair.receiver.vocab_size)
        self._steps: dict[int, BoundGraph] = {}

    def require_session(self, session: Session) -> None:
        """Raise ``UsageError`` unless these are buffers of ``session``, and that is open."""
        self._opened.require_open()
        if session.opened is not self._opened:
            raise UsageError("the batch belongs to another session", "make one with Batch(session)")

    def require(self, sections: Sequence[Section]) -> None:
        """Raise ``CapacityError`` unless a prompt of these sections fits into a row."""
        self._conversations[0].require(sections)

    def prefill(self, row: int, sections: Sequence[Section]) -> tuple[Logits, StageTimes]:
        """Fill a row with a prompt; its first logits, and the time it took."""
        conversation = self._conversations[row]
        conversation.reset()
        return conversation.prefill(sections), conversation.times

    def decode(self, ids: Sequence[int]) -> list[Logits]:
        """One step of the first ``len(ids)`` rows; each row's logits, which the next call overwrites.

        A step that fails leaves every row as it was.
        """
        num_rows = len(ids)
        with AllOrNothing(*self.rows[:num_rows]):
            for row, token_id in enumerate(ids):
                self._token_ids[row] = token_id
                self._positions[row] = self.rows[row].claim_one()
                self._past_length[row] = self.rows[row].length
            step = self._step(num_rows)
            step.start()
            step.wait()
            for row in range(num_rows):
                self.rows[row].advance(1)
        has_top = has_top_logits(self._opened.graph(names.RECEIVER))
        return [Logits(step, row, has_top=has_top) for row in range(num_rows)]

    def move(self, source: int, target: int) -> None:
        """Copy a row's valid part over another row."""
        old, new = self.rows[source], self.rows[target]
        new.reset()
        for key, buffer in old.buffers.items():
            old.memory.copy(buffer, new.buffers[key], old.length)
        new.key_positions[:, : old.length] = old.key_positions[:, : old.length]
        new.truncate(old.length, old.next_position)

    def _step(self, num_rows: int) -> BoundGraph:
        """The graph bound to the first rows; bound once for each number of rows."""
        if num_rows not in self._steps:
            memory = self._opened.memory
            caches = {
                key: memory.rows(buffer, 0, num_rows)
                for key, buffer in self._buffers.buffers.items()
            }
            inputs, outputs = cache_bindings(caches)
            inputs |= {
                names.TOKEN_IDS: self._token_ids[:num_rows],
                names.POSITIONS: self._positions[:num_rows],
                names.PAST_LENGTH: self._past_length[:num_rows],
                names.KEY_POSITIONS: self._buffers.key_positions[:num_rows],
            }
            outputs |= {name: array[:num_rows] for name, array in self._outputs.items()}
            receiver = self._opened.graph(names.RECEIVER)
            self._steps[num_rows] = receiver.bind(inputs, outputs, is_fixed=True)
        return self._steps[num_rows]


def answer_batch(
    session: Session,
    prompts: Sequence[Sequence[Section]],
    options: GenerationOptions | None = None,
    batch: Batch | None = None,
) -> list[Generation]:
    """Answer any number of prompts, as many at once as the bundle's ``max_batch_size``.

    Every answer equals that of ``session.answer`` alone. ``batch``: buffers to use again.
    Raises ``CapacityError`` before anything runs if a prompt does not fit. A Sharer's answers are those
    of ``session.sharer(number)``.
    """
    options = GenerationOptions() if options is None else options
    check_kind("options", options, GenerationOptions, "GenerationOptions")
    check_kind("prompts", prompts, (list, tuple), "a list, the sections of each prompt in it")
    check_kind("batch", batch, Batch, "a Batch of this session", or_none=True)
    check_mode_of_ids(options.mode, session.bundle)
    batch = batch or Batch(session)
    batch.require_session(session)
    with batch.user:
        return _answered(session, prompts, options, batch)


def _answered(
    session: Session,
    prompts: Sequence[Sequence[Section]],
    options: GenerationOptions,
    batch: Batch,
) -> list[Generation]:
    """``answer_batch`` with what was given or made."""
    waiting = deque(
        (index, sections_for_mode(checked_sections(sections), options.mode))
        for index, sections in enumerate(prompts)
    )
    for _, sections in waiting:
        batch.require(sections)
    results: dict[int, Generation] = {}
    active: list[_Row] = []
    while waiting or active:
        while waiting and len(active) < batch.max_batch_size:
            index, sections = waiting.popleft()
            row = _start(session, batch, len(active), index, sections, options)
            if row.writer.finish_reason is None:
                active.append(row)
            else:
                results[index] = row.writer.generation(row.times, row.first_token_s)
        if not active:
            continue
        started = time.perf_counter()
        logits = batch.decode([row.writer.last_id for row in active])
        seconds = time.perf_counter() - started
        for row, row_logits in zip(active, logits, strict=True):
            row.times.decode_s += seconds
            row.times.decode_steps += 1
            row.writer.write(row_logits)
        for place in reversed(range(len(active))):
            row = active[place]
            if row.writer.finish_reason is not None:
                results[row.index] = row.writer.generation(row.times, row.first_token_s)
                last = active.pop()
                if last is not row:
                    batch.move(len(active), place)
                    active[place] = last
    return [results[index] for index in range(len(prompts))]


def _start(
    session: Session,
    batch: Batch,
    place: int,
    index: int,
    sections: Sequence[Section],
    options: GenerationOptions,
) -> _Row:
    started = time.perf_counter()
    logits, times = batch.prefill(place, sections)
    writer = AnswerWriter(session.reader, options, sections, batch.rows[place].max_seq_len)
    writer.write(logits)
    return _Row(index, writer, times, time.perf_counter() - started)
