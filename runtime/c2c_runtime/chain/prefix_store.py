"""Beginnings of prompts that were run before: a new conversation starts from a copy of their caches.

For servers: many conversations begin with one system prompt, or send a whole chat again with every
turn. A beginning is sections that every model has read. What is kept of it is a copy of
the valid slots of every cache, so that its size follows its length and not the capacity.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from c2c_runtime.arguments import check_count
from c2c_runtime.backends.backend import Buffer
from c2c_runtime.chain.kv_cache import Key, KVCache
from c2c_runtime.chain.section_record import SectionRecord, num_common
from c2c_runtime.errors import UnavailableError
from c2c_runtime.sections.alignment import Section


@dataclass(frozen=True)
class _KeptCache:
    """The valid slots of one model: buffers [1, kv_heads, length, head_dim], positions [1, length]."""

    buffers: dict[Key, Buffer]
    key_positions: np.ndarray


@dataclass(frozen=True)
class _Beginning:
    sections: tuple[Section, ...]
    caches: tuple[_KeptCache, ...]  # Receiver, Sharer 1, ...
    size_bytes: int


class PrefixStore:
    """Kept beginnings of one session, at most ``max_bytes`` of them: the least recently used go first.

    Safe to share between threads. A conversation that starts from a copy holds what the run that was
    kept has computed, bit for bit.
    """

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` 0 keeps nothing."""
        check_count("prefix_bytes", max_bytes, meaning="0: nothing is kept")
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Section, ...], _Beginning] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(beginning.size_bytes for beginning in list(self._kept.values()))

    def keep(self, record: SectionRecord, receiver: KVCache, sharers: Sequence[KVCache]) -> bool:
        """Keep a copy of what the caches hold of the recorded sections.

        Returns whether it is kept: not if it is empty or larger than the store. A beginning that this
        one continues is dropped, because this one serves for it.
        """
        sections = tuple(record.sections)
        if not sections or not self.max_bytes:
            return False
        lengths = record.num_ids(sections)
        caches = [receiver, *sharers]
        size = sum(map(_kept_bytes, caches, lengths))
        if size > self.max_bytes:
            return False
        with self._lock:
            if self._touch(sections):
                return True
        try:
            kept = tuple(map(_copy_of, caches, lengths))
        except UnavailableError:  # the device has no room for a copy, and needs none
            return False
        with self._lock:
            if self._touch(sections):  # another thread was first
                return True
            for other in [key for key in self._kept if sections[: len(key)] == key]:
                del self._kept[other]
            while self.size_bytes + size > self.max_bytes:
                self._kept.popitem(last=False)
            self._kept[sections] = _Beginning(sections, kept, size)
        return True

    def restore(
        self,
        record: SectionRecord,
        receiver: KVCache,
        sharers: Sequence[KVCache],
        wanted: Sequence[Section],
    ) -> int:
        """Copy the longest kept beginning of ``wanted`` into the caches, unless they hold as much.

        Returns how many sections the record holds then. Where a copy is made, all else is forgotten
        before it and what it holds is recorded after it, so that an error leaves empty caches.
        """
        with self._lock:
            found = max(
                self._kept.values(),
                key=lambda beginning: num_common(beginning.sections, wanted),
                default=None,
            )
            common = num_common(found.sections, wanted) if found else 0
            if found is None or common <= len(record.sections):
                return len(record.sections)
            self._kept.move_to_end(found.sections)
        sections = found.sections[:common]
        caches = (receiver, *sharers)
        record.forget()
        for cache, kept, length in zip(caches, found.caches, record.num_ids(sections), strict=True):
            for key, buffer in kept.buffers.items():
                cache.memory.copy(buffer, cache.buffers[key], length)
            cache.key_positions[:, :length] = kept.key_positions[:, :length]
        record.hold(sections)
        return common

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _touch(self, sections: tuple[Section, ...]) -> bool:
        """Whether these sections are kept, alone or as the beginning of more; marks them as used."""
        for key in self._kept:
            if key[: len(sections)] == sections:
                self._kept.move_to_end(key)
                return True
        return False


def _kept_bytes(cache: KVCache, length: int) -> int:
    """What a copy of ``length`` slots occupies."""
    num_bytes: int = cache.size_bytes * length // cache.max_seq_len + 8 * length
    return num_bytes


def _copy_of(cache: KVCache, length: int) -> _KeptCache:
    memory = cache.memory
    buffers = {}
    for key, buffer in cache.buffers.items() if length else ():
        batch, heads, _, head_dim = memory.shape_of(buffer)
        buffers[key] = memory.allocate_like(buffer, (batch, heads, length, head_dim))
        memory.copy(buffer, buffers[key], length)
    return _KeptCache(buffers, cache.key_positions[:, :length].copy())
