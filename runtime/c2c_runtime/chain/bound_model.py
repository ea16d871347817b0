"""A Receiver or Sharer graph tied to the memory of one cache: prefill of many tokens, step of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2c_runtime.backends.backend import Buffer, Graph, Memory
from c2c_runtime.bundle import names
from c2c_runtime.chain.kv_cache import KVCache, cache_bindings
from c2c_runtime.chain.logits import Logits
from c2c_runtime.chain.section_passes import Reading


class BoundModel:
    """Bound once: a step rewrites the bound memory and runs; a prefill ties new ids and positions.

    An error in a call leaves the cache as long as it was.
    """

    def __init__(self, graph: Graph, cache: KVCache, vocab_size: int = 0) -> None:
        """``vocab_size``: a Receiver's. A Sharer has no logits and never takes a step of one token."""
        memory = cache.memory
        self.cache = cache
        self._past_length = memory.host_array((1,), "int64")
        inputs, outputs = cache_bindings(cache.buffers)
        inputs |= {names.PAST_LENGTH: self._past_length, names.KEY_POSITIONS: cache.key_positions}
        outputs |= logits_outputs(memory, 1, vocab_size)
        self._prefill = graph.bind(inputs, outputs)
        self._num_started = 0
        has_top = has_top_logits(graph)
        self._prefill_logits = Logits(self._prefill, has_top=has_top)
        self.logits = self._prefill_logits
        """Those of the last token of the last call, for a Receiver."""
        if vocab_size:
            self._step_id = memory.host_array((1, 1), "int64")
            self._step_position = memory.host_array((1, 1), "int64")
            inputs |= {names.TOKEN_IDS: self._step_id, names.POSITIONS: self._step_position}
            self._step = graph.bind(inputs, outputs, is_fixed=True)
            self._step_logits = Logits(self._step, has_top=has_top)

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ``ids`` to the cache, at the next positions."""
        first = self.cache.next_position
        positions = np.arange(first, first + len(ids), dtype=np.int64)
        self.start_prefill(Reading(tuple(ids), positions))
        self.wait()

    def start_prefill(self, reading: Reading) -> None:
        """Begin to append tokens to the cache; they count after ``wait``."""
        self._num_started = 0
        positions = self.cache.claim_positions(reading.positions)
        self._past_length[0] = self.cache.length
        self._prefill.set_input(names.TOKEN_IDS, np.array([reading.ids], np.int64))
        self._prefill.set_input(names.POSITIONS, positions)
        self._prefill.start()
        self._num_started = len(reading.ids)
        self.logits = self._prefill_logits

    def wait(self) -> None:
        """Return when the prefill that was started is complete; its tokens count now."""
        num_tokens, self._num_started = self._num_started, 0
        self._prefill.wait()
        self.cache.advance(num_tokens)

    def step(self, token_id: int) -> None:
        """Append one token, of a Receiver. Nothing is bound or allocated here."""
        self._step_position[0, 0] = self.cache.claim_one()
        self._step_id[0, 0] = token_id
        self._past_length[0] = self.cache.length
        self._step.start()
        self._step.wait()
        self.logits = self._step_logits
        self.cache.advance(1)


def logits_outputs(memory: Memory, batch_size: int, vocab_size: int) -> dict[str, Buffer]:
    """Host arrays for what a Receiver graph says of the next token, by output name."""
    num_top = min(names.MAX_TOP_LOGITS, vocab_size)
    return {
        names.LOGITS: memory.host_array((batch_size, vocab_size), "float32"),
        names.TOP_LOGITS: memory.host_array((batch_size, num_top), "float32"),
        names.TOP_IDS: memory.host_array((batch_size, num_top), "int64"),
    }


def has_top_logits(graph: Graph) -> bool:
    """Whether a Receiver graph gives the largest logits besides all of them."""
    return names.TOP_IDS in graph.output_names
