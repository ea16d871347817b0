"""Graphs of the TensorRT dialects on ONNX Runtime CPU: their own caches, rows of different lengths.

What the runtime does for one row at a time is done here for a batch, in the graph's cache dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from c2c_export.lowering.graph_options import GraphOptions
from c2c_runtime.backends.ort_backend import OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import ModelDims

NUMPY_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class StaticCaches:
    """Buffers [batch, kv_heads, max_seq_len, head_dim], full of finite garbage, and what is in them."""

    def __init__(
        self,
        dims: ModelDims,
        num_layers: int,
        options: GraphOptions,
        batch_size: int = 1,
        garbage: float = 1000.0,
    ) -> None:
        assert options.max_seq_len is not None
        shape = (batch_size, dims.num_kv_heads, options.max_seq_len, dims.head_dim)
        dtype = NUMPY_DTYPES[options.precision.activations]
        self.buffers = {
            (layer, kind): np.full(shape, garbage, dtype)
            for layer in range(num_layers)
            for kind in names.KINDS
        }
        self.lengths = np.zeros(batch_size, np.int64)
        self.next_positions = np.zeros(batch_size, np.int64)
        self.key_positions = np.full((batch_size, options.max_seq_len), 12345, np.int64)

    def valid(self, layer: int, kind: names.Kind, row: int = 0) -> np.ndarray:
        """[1, kv_heads, length, head_dim]."""
        return self.buffers[layer, kind][row : row + 1, :, : self.lengths[row]]


class StaticModel:
    """A Receiver or Sharer graph bound to caches: past and present are the same memory."""

    def __init__(self, path: Path, caches: StaticCaches, vocab_size: int = 0) -> None:
        self.caches = caches
        batch_size = len(caches.lengths)
        num_top = min(64, vocab_size)
        self.logits = np.zeros((batch_size, vocab_size), np.float32)
        self.top_ids = np.zeros((batch_size, num_top), np.int64)
        self.top_logits = np.zeros((batch_size, num_top), np.float32)
        self._past_length = np.zeros(batch_size, np.int64)
        inputs = {names.past(*key): buffer for key, buffer in caches.buffers.items()}
        inputs |= {
            names.PAST_LENGTH: self._past_length,
            names.KEY_POSITIONS: caches.key_positions,
        }
        outputs = {names.present(*key): buffer for key, buffer in caches.buffers.items()}
        outputs |= {
            names.LOGITS: self.logits,
            names.TOP_IDS: self.top_ids,
            names.TOP_LOGITS: self.top_logits,
        }
        self._bound = OrtGraph(path, 1).bind(inputs, outputs)

    def append(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Append as many tokens to every row; logits [batch, vocab_size]."""
        token_ids = np.array(ids, np.int64)
        caches = self.caches
        num_tokens = token_ids.shape[1]
        positions = caches.next_positions[:, None] + np.arange(num_tokens)
        for row, length in enumerate(caches.lengths):
            caches.key_positions[row, length : length + num_tokens] = positions[row]
        self._past_length[:] = caches.lengths
        self._bound.set_input(names.TOKEN_IDS, token_ids)
        self._bound.set_input(names.POSITIONS, positions)
        self._bound.start()
        caches.lengths += num_tokens
        caches.next_positions += num_tokens
        return self.logits


class StaticFuser:
    """A Fuser graph bound to the caches of a Receiver and its Sharers, all of one row."""

    def __init__(self, path: Path, receiver: StaticCaches, sharers: Sequence[StaticCaches]) -> None:
        inputs = {names.past(*key): buffer for key, buffer in receiver.buffers.items()}
        for number, caches in enumerate(sharers, start=1):
            for (layer, kind), buffer in caches.buffers.items():
                inputs[names.sharer_cache(number, layer, kind)] = buffer
        outputs = {names.present(*key): buffer for key, buffer in receiver.buffers.items()}
        self._bound = OrtGraph(path, 1).bind(inputs, outputs)
        self._num_sharers = len(sharers)

    def fuse(self, start: int, length: int, mask: int) -> None:
        """Fuse the section at slots ``start`` and on, the same in every cache."""
        slots = np.arange(start, start + length, dtype=np.int64)
        self._bound.set_input(names.SLOTS, slots)
        for number in range(1, self._num_sharers + 1):
            self._bound.set_input(names.sharer_slots(number), slots)
            if self._num_sharers > 1:
                enabled = np.array([bool(mask >> (number - 1) & 1)])
                self._bound.set_input(names.sharer_enabled(number), enabled)
        self._bound.start()


def cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    """Of two arrays of one shape, as vectors."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (actual, expected))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
