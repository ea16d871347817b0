"""One model's KV cache: two numbers, fixed memory, and content that goes out and comes in."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_bundles import text_bundle

from c2c_runtime import Session
from c2c_runtime.backends.host_memory import HostMemory
from c2c_runtime.bundle.cache_spec import CacheSpec
from c2c_runtime.bundle.manifest import Limits, ModelDims
from c2c_runtime.chain.kv_cache import allocate_cache, allocate_rows
from c2c_runtime.errors import CapacityError, UsageError

DIMS = ModelDims("qwen3", 3, 2, 8, 256, 512, None, "float32")


@pytest.fixture
def cache():
    return allocate_cache(
        CacheSpec("Receiver", DIMS, DIMS.num_layers, Limits(16, 16)), HostMemory()
    )


def content(num_tokens, num_layers=3, num_kv_heads=2, head_dim=8, seed=0):
    random = np.random.default_rng(seed)
    shape = (1, num_kv_heads, num_tokens, head_dim)
    return [
        tuple(random.standard_normal(shape, np.float32) for _ in range(2))
        for _ in range(num_layers)
    ]


def valid(cache):
    return [
        (cache.valid(layer, "key"), cache.valid(layer, "value"))
        for layer in range(len(cache.buffers) // 2)
    ]


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for pair, expected in zip(found, wanted, strict=True):
        for array, expected_array in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def test_buffers_are_of_kv_heads_and_of_the_layers_that_are_kept():
    cache = allocate_cache(CacheSpec("Sharer", DIMS, 2, Limits(16, 16)), HostMemory())
    assert set(cache.buffers) == {(0, "key"), (0, "value"), (1, "key"), (1, "value")}
    assert {buffer.shape for buffer in cache.buffers.values()} == {(1, 2, 16, 8)}
    assert cache.size_bytes == 4 * 2 * 16 * 8 * 4
    assert (cache.length, cache.next_position, cache.max_seq_len) == (0, 0, 16)


def test_tokens_count_once_they_are_written(cache):
    positions = cache.claim(3)
    np.testing.assert_array_equal(positions, [[0, 1, 2]])
    assert positions.dtype == np.int64
    assert (cache.length, cache.next_position) == (0, 0)
    cache.advance(3)
    assert (cache.length, cache.next_position) == (3, 3)
    assert cache.valid(0, "key").shape == (1, 2, 3, 8)


def test_positions_run_ahead_of_slots_over_dropped_padding(cache):
    cache.claim(3)
    cache.advance(3)
    cache.skip(4)
    np.testing.assert_array_equal(cache.claim(2), [[7, 8]])
    cache.advance(2)
    np.testing.assert_array_equal(cache.key_positions[0, :5], [0, 1, 2, 7, 8])
    assert (cache.length, cache.next_position) == (5, 9)


def test_capacity_counts_slots_not_positions(cache):
    cache.skip(100)
    cache.claim(16)
    cache.advance(16)
    assert cache.next_position == 116


@pytest.mark.parametrize(("held", "more"), [(0, 17), (1, 16), (16, 1)])
def test_what_does_not_fit_changes_nothing(cache, held, more):
    cache.claim(held)
    cache.advance(held)
    positions = cache.key_positions.copy()
    for call in (cache.require, cache.claim):
        with pytest.raises(CapacityError, match=f"Receiver's cache has room for 16.*{more} more"):
            call(more)
    assert (cache.length, cache.next_position) == (held, held)
    np.testing.assert_array_equal(cache.key_positions, positions)
    cache.require(16 - held)


def test_truncating_forgets_what_comes_after_and_keeps_what_is_before(cache):
    wanted = content(10)
    cache.load(wanted)
    cache.truncate(4, 6)
    assert (cache.length, cache.next_position) == (4, 6)
    assert_equal(valid(cache), [(k[:, :, :4], v[:, :, :4]) for k, v in wanted])
    np.testing.assert_array_equal(cache.claim(1), [[6]])
    np.testing.assert_array_equal(cache.key_positions[0, :5], [0, 1, 2, 3, 6])


def test_resetting_empties_without_touching_the_memory(cache):
    buffers = {key: buffer.ctypes.data for key, buffer in cache.buffers.items()}
    cache.load(content(10))
    cache.reset()
    assert (cache.length, cache.next_position) == (0, 0)
    assert cache.valid(0, "key").shape[2] == 0
    assert {key: buffer.ctypes.data for key, buffer in cache.buffers.items()} == buffers


@pytest.mark.parametrize("num_tokens", [0, 1, 16])
def test_what_is_loaded_comes_out_again(cache, num_tokens):
    for buffer in cache.buffers.values():
        buffer.fill(np.nan)
    cache.load(content(5, seed=1))
    wanted = content(num_tokens)
    cache.load(wanted)
    assert_equal(valid(cache), wanted)
    assert (cache.length, cache.next_position) == (num_tokens, num_tokens)
    np.testing.assert_array_equal(cache.key_positions[0, :num_tokens], range(num_tokens))


def test_loading_can_say_where_positions_go_on(cache):
    cache.load(content(5), next_position=9)
    assert (cache.length, cache.next_position) == (5, 9)
    np.testing.assert_array_equal(cache.claim(1), [[9]])


@pytest.mark.parametrize(
    ("caches", "error"),
    [
        (content(17), CapacityError),
        (content(5, num_layers=2), UsageError),
        (content(5, num_layers=4), UsageError),
        (content(5, num_kv_heads=1), UsageError),  # numpy would repeat it
        (content(5, head_dim=1), UsageError),
        ([*content(5)[:2], *content(6)[:1]], UsageError),
        ([], UsageError),
    ],
)
def test_what_cannot_be_loaded_leaves_the_cache_as_it_was(cache, caches, error):
    held = content(5, seed=1)
    cache.load(held)
    with pytest.raises(error):
        cache.load(caches)
    assert_equal(valid(cache), held)
    assert (cache.length, cache.next_position) == (5, 5)


def test_valid_is_a_view_of_the_memory_that_graphs_write(cache):
    cache.load(content(5))
    cache.valid(1, "value")[:] = 7
    assert (cache.buffers[1, "value"][:, :, :5] == 7).all()
    assert not (cache.buffers[1, "value"][:, :, 5:] == 7).any()


def test_rows_share_memory_but_no_numbers():
    rows, caches = allocate_rows(CacheSpec("Receiver", DIMS, 1, Limits(16, 16)), HostMemory(), 3)
    caches[1].load(content(4, num_layers=1))
    assert [cache.length for cache in caches] == [0, 4, 0]
    np.testing.assert_array_equal(rows.buffers[0, "key"][1:2, :, :4], caches[1].valid(0, "key"))
    assert not rows.buffers[0, "key"][[0, 2]].any()
    np.testing.assert_array_equal(rows.key_positions[:, 3], [0, 3, 0])


def test_a_conversation_goes_on_from_a_cache_that_was_carried_over(tmp_path_factory):
    """onnxruntime-genai#415, vllm#10515: KV out of one conversation and into another."""
    with Session.open(text_bundle(tmp_path_factory) / "bundle") as session:
        first, *_ = session.sections_of_ids([*range(30, 60), 5])
        source, target, dirty = (session.conversation() for _ in range(3))
        source.append(first.receiver_ids, first.sharer_ids, first.mask, span=33)
        dirty.append([7] * 50, [[7] * 50])
        carried = [(key.copy(), value.copy()) for key, value in valid(source.receiver)]
        for conversation in (target, dirty):
            conversation.receiver.load(carried, source.receiver.next_position)
        logits = source.decode([5]).copy()
        assert np.ptp(logits) > 1
        np.testing.assert_array_equal(target.decode([5]), logits)
        np.testing.assert_array_equal(dirty.decode([5]), logits)
