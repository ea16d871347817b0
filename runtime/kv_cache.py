"""One model's KV cache: buffers allocated once, and the two numbers that say what is in them.

The valid length is kept here and never counted from the data. The next position can be ahead of it:
template padding that a deployment drops still moves positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from c2c_runtime import names
from c2c_runtime.errors import CapacityError

Cache = np.ndarray  # [batch, kv_heads, max_seq_len, head_dim]


class KVCache:
    """Caches of layers 0..num_layers-1, each [batch, kv_heads, max_seq_len, head_dim].

    ``length``: valid tokens. ``next_position``: position of the token that comes next.
    ``key_positions`` int64 [batch, max_seq_len]: the position of every valid slot.
    What lies in slots from ``length`` on is garbage and is never read.
    """

    def __init__(
        self,
        owner: Literal["Receiver", "Sharer"],
        num_layers: int,
        num_kv_heads: int,
        max_seq_len: int,
        head_dim: int,
        batch_size: int = 1,
    ) -> None:
        self.owner = owner
        self.max_seq_len = max_seq_len
        shape = (batch_size, num_kv_heads, max_seq_len, head_dim)
        self.buffers: dict[tuple[int, names.Kind], Cache] = {
            (layer, kind): np.zeros(shape, np.float32)
            for layer in range(num_layers)
            for kind in names.KINDS
        }
        self.key_positions = np.zeros((batch_size, max_seq_len), np.int64)
        self.length = 0
        self.next_position = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    def require(self, num_tokens: int) -> None:
        """Raise ``CapacityError`` unless ``num_tokens`` more fit."""
        if self.length + num_tokens > self.max_seq_len:
            raise CapacityError(
                f"the {self.owner}'s cache holds {self.length} of at most {self.max_seq_len} tokens; "
                f"{num_tokens} more do not fit",
                "shorten the prompt or --max-new-tokens, or build the bundle with a larger --max-seq-len",
            )

    def claim(self, num_tokens: int) -> np.ndarray:
        """Take the next ``num_tokens`` positions: writes them to ``key_positions`` and returns them,
        int64 [1, num_tokens]. The tokens count as valid only after ``advance``."""
        self.require(num_tokens)
        positions = np.arange(self.next_position, self.next_position + num_tokens, dtype=np.int64)
        self.key_positions[:, self.length : self.length + num_tokens] = positions
        return positions[np.newaxis]

    def advance(self, num_tokens: int) -> None:
        """Count ``num_tokens`` claimed tokens, whose keys and values are now written, as valid."""
        self.length += num_tokens
        self.next_position += num_tokens

    def skip(self, num_positions: int) -> None:
        """Move the next position over dropped padding."""
        self.next_position += num_positions

    def truncate(self, length: int, next_position: int) -> None:
        """Forget everything from slot ``length`` on; the buffers stay as they are."""
        self.length = length
        self.next_position = next_position

    def reset(self) -> None:
        """Empty the cache. The buffers are not cleared: nothing reads past the valid length."""
        self.truncate(0, 0)

    def valid(self, layer: int, kind: names.Kind) -> Cache:
        """View of the valid part, [batch, kv_heads, length, head_dim]."""
        return self.buffers[layer, kind][:, :, : self.length]

    def load(self, caches: Sequence[tuple[Cache, Cache]], next_position: int | None = None) -> None:
        """Replace the content by ``caches`` (key, value a layer), each [batch, kv_heads, n, head_dim]."""
        num_tokens = caches[0][0].shape[2] if caches else 0
        self.reset()
        self.require(num_tokens)
        for layer, pair in enumerate(caches):
            for kind, source in zip(names.KINDS, pair, strict=True):
                self.buffers[layer, kind][:, :, :num_tokens] = source
        self.claim(num_tokens)
        self.advance(num_tokens)
        if next_position is not None:
            self.next_position = next_position
