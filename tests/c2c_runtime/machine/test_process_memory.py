"""Giving memory back: what is freed leaves the process."""

from __future__ import annotations

import ctypes

import psutil
import pytest

from c2c_runtime.machine.process_memory import peak_bytes, release_memory

MIB = 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's malloc")
def test_freed_memory_is_given_back_though_something_lies_after_it():
    process = psutil.Process()
    del_first = bytearray(30 * MIB)  # freeing it makes malloc put smaller blocks side by side
    del del_first
    before = process.memory_info().rss
    blocks = [bytearray(b"x" * MIB) for _ in range(200)]
    last = bytearray(b"x" * MIB)
    assert process.memory_info().rss - before > 150 * MIB
    blocks.clear()
    release_memory()
    assert process.memory_info().rss - before < 50 * MIB
    assert len(last) == MIB


def test_peak_memory_is_in_bytes_and_at_least_what_is_held_now():
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < peak_bytes() < 64 * 2**30
