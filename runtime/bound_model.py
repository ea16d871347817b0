"""A Receiver or Sharer graph tied to the memory of one cache: prefill of many tokens, step of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2c_runtime import names
from c2c_runtime.kv_cache import KVCache, cache_bindings
from c2c_runtime.ort_backend import OrtGraph


class BoundModel:
    """Bound once: a step rewrites the bound memory and runs; a prefill ties new ids and positions.

    ``logits`` float32 [vocab_size]: those of the last token of the last call, for a Receiver.
    """

    def __init__(self, graph: OrtGraph, cache: KVCache, vocab_size: int = 0) -> None:
        self.cache = cache
        self._past_length = np.zeros(1, np.int64)
        self._step_id = np.zeros((1, 1), np.int64)
        self._step_position = np.zeros((1, 1), np.int64)
        logits = np.zeros((1, vocab_size), np.float32)
        self.logits: np.ndarray = logits[0]
        inputs, outputs = cache_bindings(cache.buffers)
        inputs |= {
            names.PAST_LENGTH: self._past_length,
            names.KEY_POSITIONS: cache.key_positions,
            names.TOKEN_IDS: self._step_id,
            names.POSITIONS: self._step_position,
        }
        outputs[names.LOGITS] = logits
        self._prefill = graph.bind(inputs, outputs)
        self._step = graph.bind(inputs, outputs)

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ``ids`` to the cache."""
        positions = self.cache.claim(len(ids))
        self._past_length[0] = self.cache.length
        self._prefill.set_input(names.TOKEN_IDS, np.array([ids], np.int64))
        self._prefill.set_input(names.POSITIONS, positions)
        self._prefill.run()
        self.cache.advance(len(ids))

    def step(self, token_id: int) -> None:
        """Append one token. Nothing is bound or allocated here."""
        self._step_position[:] = self.cache.claim(1)
        self._step_id[0, 0] = token_id
        self._past_length[0] = self.cache.length
        self._step.run()
        self.cache.advance(1)
