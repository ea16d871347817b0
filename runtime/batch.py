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

import numpy as np

from c2c_runtime import names
from c2c_runtime.alignment import Section
from c2c_runtime.conversation import Conversation, StageTimes
from c2c_runtime.generation import (
    AnswerWriter,
    Generation,
    GenerationOptions,
    sections_for_mode,
)
from c2c_runtime.kv_cache import KVCache, allocate_rows, cache_bindings
from c2c_runtime.ort_backend import BoundGraph
from c2c_runtime.session import Session


@dataclass
class _Row:
    """A prompt that is being answered in one row."""

    index: int  # of the prompt
    writer: AnswerWriter
    times: StageTimes
    first_token_s: float


class Batch:
    """Buffers for ``max_batch_size`` rows and the graphs bound to them, allocated once."""

    def __init__(self, session: Session) -> None:
        pair, limits = session.bundle.manifest.pair, session.bundle.manifest.limits
        self.max_batch_size = limits.max_batch_size
        self._session = session
        self._buffers, self.rows = allocate_rows(
            "Receiver",
            pair.receiver,
            pair.receiver.num_layers,
            limits.max_seq_len,
            limits.max_batch_size,
        )
        # Sharers are read before the first token only, so the rows can take turns with their caches.
        sharers = [
            KVCache.allocate("Sharer", sharer.dims, sharer.num_cached_layers, limits.max_seq_len)
            for sharer in pair.sharers
        ]
        self._conversations = [Conversation(session, row, sharers) for row in self.rows]
        self._token_ids = np.zeros((limits.max_batch_size, 1), np.int64)
        self._positions = np.zeros((limits.max_batch_size, 1), np.int64)
        self._past_length = np.zeros(limits.max_batch_size, np.int64)
        self._logits = np.zeros((limits.max_batch_size, pair.receiver.vocab_size), np.float32)
        self._steps: dict[int, BoundGraph] = {}

    def require(self, sections: Sequence[Section]) -> None:
        """Raise ``CapacityError`` unless a prompt of these sections fits into a row."""
        self._conversations[0].require(sections)

    def prefill(self, row: int, sections: Sequence[Section]) -> tuple[np.ndarray, StageTimes]:
        """Fill a row with a prompt; its first logits, float32 [vocab_size], and the time it took."""
        conversation = self._conversations[row]
        conversation.reset()
        return conversation.prefill(sections), conversation.times

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """One step of the first ``len(ids)`` rows; logits float32 [rows, vocab_size], a view that the
        next call overwrites."""
        num_rows = len(ids)
        for row, token_id in enumerate(ids):
            self._token_ids[row] = token_id
            self._positions[row] = self.rows[row].claim(1)[0]
            self._past_length[row] = self.rows[row].length
        self._step(num_rows).run()
        for row in range(num_rows):
            self.rows[row].advance(1)
        logits: np.ndarray = self._logits[:num_rows]
        return logits

    def move(self, source: int, target: int) -> None:
        """Copy a row's valid part over another row."""
        old, new = self.rows[source], self.rows[target]
        for key, buffer in old.buffers.items():
            new.buffers[key][:, :, : old.length] = buffer[:, :, : old.length]
        new.key_positions[:, : old.length] = old.key_positions[:, : old.length]
        new.truncate(old.length, old.next_position)

    def _step(self, num_rows: int) -> BoundGraph:
        """The graph bound to the first rows; bound once for each number of rows."""
        if num_rows not in self._steps:
            caches = {key: buffer[:num_rows] for key, buffer in self._buffers.buffers.items()}
            inputs, outputs = cache_bindings(caches)
            inputs |= {
                names.TOKEN_IDS: self._token_ids[:num_rows],
                names.POSITIONS: self._positions[:num_rows],
                names.PAST_LENGTH: self._past_length[:num_rows],
                names.KEY_POSITIONS: self._buffers.key_positions[:num_rows],
            }
            outputs[names.LOGITS] = self._logits[:num_rows]
            self._steps[num_rows] = self._session.graph(names.RECEIVER).bind(inputs, outputs)
        return self._steps[num_rows]


def answer_batch(
    session: Session,
    prompts: Sequence[Sequence[Section]],
    options: GenerationOptions | None = None,
    batch: Batch | None = None,
) -> list[Generation]:
    """Answer any number of prompts, as many at once as the bundle's ``max_batch_size``.

    Every answer equals that of ``session.answer`` alone. ``batch``: buffers to use again.
    Raises ``CapacityError`` before anything runs if a prompt does not fit.
    """
    options = options or GenerationOptions()
    batch = batch or Batch(session)
    waiting = deque(
        (index, sections_for_mode(sections, options.mode)) for index, sections in enumerate(prompts)
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
    writer = AnswerWriter(session, options, sections, batch.rows[place].max_seq_len)
    writer.write(logits)
    return _Row(index, writer, times, time.perf_counter() - started)
