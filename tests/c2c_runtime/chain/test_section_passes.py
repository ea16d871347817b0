"""Sections that share passes leave the caches that running them one by one would, in fewer runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from interrupts import interrupt_run
from tiny_bundles import two_sharer_bundle

from c2c_runtime import Session
from c2c_runtime.backends.ort_backend import OrtBackend
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.chain.bound_model import BoundModel
from c2c_runtime.chain.section_passes import even_parts
from c2c_runtime.sections.alignment import UNFUSED, Section

IDS = [int(i) for i in np.random.default_rng(7).integers(10, 250, 200)]


def unfused(receiver, first=0, second=0, start=0, span=None):
    """A section of so many tokens a model."""
    parts = [tuple(IDS[start + 20 * i :][:n]) for i, n in enumerate((receiver, first, second))]
    section = Section.of(parts[0], parts[1:], UNFUSED)
    return section if span is None else Section(parts[0], tuple(parts[1:]), UNFUSED, span)


def fused(length, start=50, mask=3):
    ids = IDS[start : start + length]
    return Section.of(ids, [ids, ids], mask)


PROMPTS = {
    "a chat whose templates differ in length": [
        unfused(3, 7, 5),
        fused(6),
        unfused(5, 2, 0, 30),
        fused(4, 60),
    ],
    "gaps in the first pass": [unfused(4, 2, 9), unfused(2, 5, 1, 9), fused(3)],
    "tokens of the Sharers alone": [unfused(0, 12, 3), unfused(2, 3, 3), fused(5)],
    "nothing for the Receiver": [unfused(0, 12, 3), unfused(0, 3, 9)],
    "nothing is fused": [unfused(3, 1, 2), unfused(5, 9, 0, 30, span=11)],
    "nothing but fused": [fused(5), fused(1, 60, mask=2), fused(7, 70, mask=1)],
    "more than a pass holds": [unfused(20, 3, 25), fused(19), unfused(2, 18, 1), fused(1, 90)],
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session.open(two_sharer_bundle(tmp_path_factory)) as opened:
        yield opened


@pytest.fixture
def reads(monkeypatch):
    """Prefill passes, by the cache that they write."""
    counted = Counter()
    start = BoundModel.start_prefill

    def counting(model, reading):
        counted[id(model.cache)] += 1
        start(model, reading)

    monkeypatch.setattr(BoundModel, "start_prefill", counting)
    return counted


def caches_of(conversation):
    return [conversation.receiver, *conversation.sharers]


def one_by_one(session, sections):
    conversation = session.conversation()
    for one in sections:
        conversation.append(one.receiver_ids, one.sharer_ids, one.mask, one.span)
    return conversation


def assert_equal(found, expected):
    for own, other in zip(caches_of(found), caches_of(expected), strict=True):
        assert (own.length, own.next_position) == (other.length, other.next_position)
        valid = np.s_[0, : own.length]
        np.testing.assert_array_equal(own.key_positions[valid], other.key_positions[valid])
        for key in own.buffers:
            np.testing.assert_allclose(own.valid(*key), other.valid(*key), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sections", PROMPTS.values(), ids=PROMPTS)
def test_sections_together_equal_sections_one_by_one(session, sections):
    expected = one_by_one(session, sections)
    together = session.conversation()
    together.extend(sections)
    assert_equal(together, expected)
    found, wanted = (each.decode(IDS[:3]).copy() for each in (together, expected))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    together.reset()  # and over buffers that are not clean
    together.extend(sections)
    together.decode(IDS[:3])
    expected = one_by_one(session, sections)
    expected.decode(IDS[:3])
    assert_equal(together, expected)


def test_a_sharer_reads_once_and_the_receiver_up_to_each_fused_section(session, reads):
    conversation = session.conversation()
    sections = [unfused(2, 3, 1), fused(3), unfused(4, 1, 2), fused(2, 60), unfused(1, 1, 1)]
    conversation.extend(sections)
    assert [reads[id(cache)] for cache in caches_of(conversation)] == [3, 1, 1]


def test_a_prompt_as_a_user_gives_it_runs_in_as_few_passes(session, reads):
    conversation = session.conversation()
    conversation.prefill([unfused(2, 3, 1), fused(3), unfused(4, 0, 0)])
    assert [reads[id(cache)] for cache in caches_of(conversation)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("length", "longest", "sizes"),
    [(0, 4, []), (4, 4, [4]), (5, 4, [2, 3]), (300, 256, [150, 150]), (10, 4, [3, 3, 4])],
)
def test_parts_are_few_and_even(length, longest, sizes):
    parts = list(even_parts(length, longest))
    assert [part.stop - part.start for part in parts] == sizes
    assert [i for part in parts for i in range(length)[part]] == list(range(length))


def test_a_pass_is_no_longer_than_the_backend_wants(session, monkeypatch):
    """The bundle's graphs take 16 tokens; the same answer comes in passes of at most 6."""
    sections = [*PROMPTS["more than a pass holds"], unfused(15, start=100)]
    expected = session.conversation().prefill(sections).copy()
    monkeypatch.setattr(OrtBackend, "max_pass_len", 6)
    sizes = []
    start = BoundModel.start_prefill

    def noting(model, reading):
        sizes.append(len(reading.ids))
        start(model, reading)

    monkeypatch.setattr(BoundModel, "start_prefill", noting)
    found = session.conversation().prefill(sections)
    assert max(sizes) <= 6
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("end", [fused(6, 50), unfused(6, 0, 0, 50)])
def test_an_answer_that_the_next_prompt_repeats_is_not_run_again(session, reads, end):
    """The template behind the message and the answer: both were decoded, in two sections of the next."""
    begin = [unfused(2, 3, 1), fused(3, 80)]
    template, answer = unfused(4, 0, 0, 30), end
    conversation = session.conversation()
    conversation.prefill([*begin, template])
    for token_id in answer.receiver_ids:
        conversation.decode([token_id])
    reads.clear()
    turn = [*begin, template, answer]
    logits = conversation.prefill([*turn, unfused(3, start=100)]).copy()
    receiver, *sharers = [reads[id(cache)] for cache in caches_of(conversation)]
    assert (receiver, *sharers) == (1, int(end.mask > 0), int(end.mask > 0))
    fresh = session.conversation()
    expected = fresh.prefill([*turn, unfused(3, start=100)])
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-5)
    assert_equal(conversation, fresh)


def test_what_was_decoded_behind_a_section_that_is_now_fused_is_run_again(session):
    """Its keys and values were computed while the section was not fused yet."""
    conversation = session.conversation()
    conversation.prefill([fused(3, 80), unfused(6, start=50)])
    cut = [fused(3, 80), fused(4, 50), unfused(2, start=54), unfused(2, start=100)]
    found = conversation.prefill(cut).copy()
    expected = session.conversation().prefill(cut)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fails_at", range(6))
def test_a_failure_between_passes_undoes_all_of_them(session, monkeypatch, fails_at):
    """An answer is adopted and fused, then a run fails: the next try does not take the fused slots
    for what the Receiver decoded."""
    begin, template = [fused(3, 80)], unfused(4, 0, 0, 30)
    conversation = session.conversation()
    conversation.prefill([*begin, template])
    for token_id in IDS[50:54]:
        conversation.decode([token_id])
    held = [(cache.length, cache.next_position) for cache in caches_of(one_by_one(session, begin))]
    prompt = [*begin, template, fused(4, 50), unfused(3, 2, 1), fused(2, 90), unfused(1)]
    interrupt_run(monkeypatch, fails_at)
    with pytest.raises(KeyboardInterrupt):
        conversation.prefill(prompt)
    monkeypatch.undo()
    if fails_at < 5:  # the sixth run is the last section's
        assert [(c.length, c.next_position) for c in caches_of(conversation)] == held
    found = conversation.prefill(prompt).copy()
    fresh = session.conversation()
    np.testing.assert_allclose(found, fresh.prefill(prompt).numpy(), rtol=0, atol=1e-5)
    assert_equal(conversation, fresh)


def test_a_sharer_may_fill_its_cache_at_once(session):
    """With a gap between positions, for which ONNX Runtime's kernel needs one slot more."""
    manifest = session.bundle.manifest
    capacity = manifest.limits.max_seq_len
    limits = replace(manifest.limits, max_prompt_len=capacity)
    wide = Session(Bundle(session.bundle.root, replace(manifest, limits=limits)))
    sections = [unfused(3, 1), unfused(0, capacity - 1)]
    together = wide.conversation()
    together.extend(sections)
    assert together.sharers[0].length == capacity
    assert_equal(together, one_by_one(session, sections))
