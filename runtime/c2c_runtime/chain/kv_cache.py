"""One model's KV cache: buffers allocated once, and the two numbers that say what is in them.

The valid length is kept here and never counted from the data. The next position can be ahead of it:
template padding that a deployment drops still moves positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from c2c_runtime.backends.backend import Buffer, Memory
from c2c_runtime.bundle import names
from c2c_runtime.bundle.cache_spec import CacheSpec, Owner
from c2c_runtime.errors import CapacityError, UsageError

Key = tuple[int, names.Kind]  # layer, kind
Cache = np.ndarray  # [batch, kv_heads, n, head_dim]


class KVCache:
    """Caches of layers 0..num_layers-1 of one conversation, each [1, kv_heads, max_seq_len, head_dim].

    ``buffers`` are the backend's memory. ``length``: valid tokens. ``next_position``: position of the token that comes next.
    ``key_positions`` int64 [1, max_seq_len]: the position of every valid slot.
    What lies in slots from ``length`` on is garbage and is never read.
    """

    def __init__(
        self,
        owner: Owner,
        memory: Memory,
        buffers: dict[Key, Buffer],
        key_positions: np.ndarray,
        max_positions: int | None = None,
    ) -> None:
        self.owner = owner
        self.memory = memory
        self.buffers = buffers
        self.key_positions = key_positions
        self.max_seq_len = key_positions.shape[1]
        self.max_positions = max_positions
        self.length = 0
        self.next_position = 0
        self.num_loads = 0  # calls of ``load``, for who records what is in the cache

    def state(self) -> tuple[int, int]:
        """For ``AllOrNothing``."""
        return self.length, self.next_position

    def go_back(self, state: tuple[int, int]) -> None:
        """The slots behind are garbage again."""
        self.length, self.next_position = state

    @property
    def size_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.memory.size_bytes_of(buffer) for buffer in self.buffers.values())

    def require(self, num_tokens: int, after: int | None = None, end: int | None = None) -> None:
        """Raise ``CapacityError`` unless ``num_tokens`` more fit after ``after`` valid tokens (by
        default those that are there now). ``end``: the position after the last of them (by default,
        with no padding dropped between them)."""
        if end is None:
            end = num_tokens + (self.next_position if after is None else after)
        after = self.length if after is None else after
        if after + num_tokens > self.max_seq_len:
            holds = f" and holds {after}" if after else ""
            raise CapacityError(
                f"the {self.owner}'s cache has room for {self.max_seq_len} tokens{holds}; "
                f"{num_tokens} more do not fit",
                "shorten the prompt or --max-new-tokens, or build the bundle with a larger --max-seq-len",
            )
        if self.max_positions is not None and end > self.max_positions:
            raise CapacityError(
                f"the {self.owner} has {self.max_positions} positions, and {num_tokens} more tokens "
                f"reach to {end}: dropped template padding takes positions, too",
                "shorten the conversation, or build the bundle with a larger --max-seq-len",
            )

    def claim_one(self) -> int:
        """Take the next slot for one token, at the next position, which is returned."""
        self.require(1)
        self.key_positions[:, self.length] = self.next_position
        return self.next_position

    def claim(self, num_tokens: int) -> np.ndarray:
        """Take the next ``num_tokens`` positions, as ``claim_positions`` does."""
        first = self.next_position
        return self.claim_positions(np.arange(first, first + num_tokens, dtype=np.int64))

    def claim_positions(self, positions: np.ndarray) -> np.ndarray:
        """Take the next slots for tokens at ``positions``, int64 [tokens], which rise: writes them to
        ``key_positions`` and returns them, [1, tokens]. The tokens count as valid only after ``advance``."""
        num_tokens = len(positions)
        self.require(num_tokens, end=int(positions[-1]) + 1 if num_tokens else None)
        self.key_positions[:, self.length : self.length + num_tokens] = positions
        return positions[np.newaxis]

    def advance(self, num_tokens: int) -> None:
        """Count the next ``num_tokens`` slots, whose keys and values are now written, as valid. The next
        position is the one behind the last of them."""
        if num_tokens:
            self.length += num_tokens
            self.next_position = int(self.key_positions[0, self.length - 1]) + 1

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
        """The valid part, [batch, kv_heads, length, head_dim], on the host: a view where the cache
        lies there, else a copy."""
        return self.memory.read(self.buffers[layer, kind], self.length)

    def load(self, caches: Sequence[tuple[Cache, Cache]], next_position: int | None = None) -> None:
        """Replace the content by ``caches`` (key, value a layer), each [batch, kv_heads, n, head_dim].

        Raises ``UsageError`` or ``CapacityError`` before anything is written. Any other error leaves
        the cache empty.
        """
        num_tokens = caches[0][0].shape[2] if caches else 0
        arrays = {
            (layer, kind): source
            for layer, pair in enumerate(caches)
            for kind, source in zip(names.KINDS, pair, strict=True)
        }
        shapes = {key: self.memory.shape_of(buffer) for key, buffer in self.buffers.items()}
        wanted = {key: (*shape[:2], num_tokens, shape[3]) for key, shape in shapes.items()}
        if {key: source.shape for key, source in arrays.items()} != wanted:
            found = sorted({source.shape for source in arrays.values()})
            raise UsageError(
                f"{len(caches)} layers of shape {found} are no content for the {self.owner}'s cache",
                f"give {len(wanted) // 2} layers, keys and values each of "
                f"{next(iter(wanted.values()), None)}",
            )
        self.require(num_tokens, after=0)
        self.num_loads += 1
        self.reset()
        for key, source in arrays.items():
            self.memory.write(self.buffers[key], source)
        self.claim(num_tokens)
        self.advance(num_tokens)
        if next_position is not None:
            self.next_position = next_position


@dataclass(frozen=True)
class RowBuffers:
    """The memory of several rows: buffers [batch, kv_heads, max_seq_len, head_dim], key_positions
    [batch, max_seq_len]."""

    buffers: dict[Key, Buffer]
    key_positions: np.ndarray


def allocate_cache(spec: CacheSpec, memory: Memory) -> KVCache:
    """A cache of one conversation with buffers of its own."""
    return allocate_rows(spec, memory, 1)[1][0]


def allocate_rows(
    spec: CacheSpec, memory: Memory, batch_size: int
) -> tuple[RowBuffers, list[KVCache]]:
    """Memory for ``batch_size`` rows, and each row as a cache: a view, with a length of its own."""
    dims, max_seq_len = spec.dims, spec.limits.max_seq_len
    shape = (batch_size, dims.num_kv_heads, max_seq_len, dims.head_dim)
    rows = RowBuffers(
        {
            (layer, kind): memory.allocate(shape, spec.dtype)
            for layer in range(spec.num_layers)
            for kind in names.KINDS
        },
        memory.host_array((batch_size, max_seq_len), "int64"),
    )
    caches = [
        KVCache(
            spec.owner,
            memory,
            {key: memory.rows(buffer, row, row + 1) for key, buffer in rows.buffers.items()},
            rows.key_positions[row : row + 1],
            spec.limits.max_positions,
        )
        for row in range(batch_size)
    ]
    return rows, caches


def cache_bindings(buffers: Mapping[Key, Buffer]) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    """Buffers by the names of a graph's inputs and of its outputs: both are the same memory."""
    inputs = {names.past(*key): buffer for key, buffer in buffers.items()}
    outputs = {names.present(*key): buffer for key, buffer in buffers.items()}
    return inputs, outputs
