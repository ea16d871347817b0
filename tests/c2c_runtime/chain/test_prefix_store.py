"""Conversations that begin like an earlier one start from a copy of its caches and answer the same."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_bundles import text_bundle, two_sharer_bundle

from c2c_runtime import GenerationOptions, Session, answer_batch
from c2c_runtime.backends.host_memory import HostMemory
from c2c_runtime.backends.ort_backend import BoundOrtGraph
from c2c_runtime.sections.alignment import UNFUSED, Section

GREEDY = GenerationOptions(max_new_tokens=8, ignore_eos=True)
IDS = [int(i) for i in np.random.default_rng(5).integers(10, 250, 90)]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """Receiver and two Sharers with windows of 16 tokens; prompts are longer."""
    return two_sharer_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


def beginning():
    """Sections of every kind: fused by both Sharers, by one, by none, and with dropped padding."""
    return [
        Section.of(IDS[:9], [IDS[9:18], IDS[18:27]], 3),
        Section(tuple(IDS[27:30]), (tuple(IDS[30:37]), ()), UNFUSED, 9),
        Section.of(IDS[37:49], [IDS[37:49], IDS[49:53]], 1),
    ]


def ending(start):
    """One more fused section and the last one."""
    ids = IDS[start : start + 7]
    return [Section.of(ids, [ids, ids], 2), Section.of(ids[:2], [[], []], UNFUSED)]


@pytest.fixture
def calls(monkeypatch):
    """Every run of a graph."""
    made = []
    run = BoundOrtGraph.start
    monkeypatch.setattr(BoundOrtGraph, "start", lambda graph: (made.append(graph), run(graph))[1])
    return made


def test_a_copied_beginning_equals_a_fresh_run(windowed, calls):
    """Bit for bit: the copy holds what the first run computed, and the rest is computed alike."""
    with Session.open(windowed) as plain, Session.open(windowed, prefix_bytes=2**20) as session:
        first = session.answer([*beginning(), *ending(60)], GREEDY).finish()
        assert (
            first.token_ids == plain.answer([*beginning(), *ending(60)], GREEDY).finish().token_ids
        )
        prompt = [*beginning(), *ending(70)]
        fresh, copied = plain.conversation(), session.conversation()
        calls.clear()
        expected = fresh.prefill(prompt).copy()
        num_fresh = len(calls)
        np.testing.assert_array_equal(copied.prefill(prompt), expected)
        assert len(calls) - num_fresh < num_fresh / 2, "the beginning was run again"
        for own, other in zip([copied.receiver, *copied.sharers], [fresh.receiver, *fresh.sharers], strict=True):  # fmt: skip
            assert (own.length, own.next_position) == (other.length, other.next_position)
            for key in own.buffers:
                np.testing.assert_array_equal(own.valid(*key), other.valid(*key))
        answers = [
            s.answer(prompt, GREEDY, conversation).finish().token_ids
            for s, conversation in ((plain, fresh), (session, copied))
        ]
        assert answers[0] == answers[1]
        batch = [result.token_ids for result in answer_batch(session, [prompt, prompt], GREEDY)]
        assert batch == [answers[0]] * 2


def test_a_copy_is_not_changed_by_who_starts_from_it(bundle):
    with Session.open(bundle, prefix_bytes=2**20) as session:
        prompts = [session.sections_of_ids([*IDS[:20], n]) for n in (11, 12, 11)]
        results = [session.answer(prompt, GREEDY).finish().token_ids for prompt in prompts]
        assert results[0] == results[2]
        assert len(session.opened.prefixes) == 1


def test_nothing_is_kept_unless_asked_for(bundle, calls):
    with Session.open(bundle) as session:
        prompt = session.sections_of_ids(IDS[:20])
        counts = []
        for _ in range(2):
            calls.clear()
            session.conversation().prefill(prompt)
            counts.append(len(calls))
        assert counts[0] == counts[1]
        assert len(session.opened.prefixes) == 0
        assert not session.conversation().keep()


def test_the_bound_holds_and_the_least_recently_used_goes_first(bundle, calls):
    with Session.open(bundle, prefix_bytes=2**20) as session:
        session.conversation().prefill(session.sections_of_ids(IDS[:21]))
        one = session.opened.prefixes.size_bytes
    assert one > 0
    with Session.open(bundle, prefix_bytes=2 * one) as session:
        prompts = [session.sections_of_ids(IDS[n : n + 21]) for n in (0, 21, 42)]
        for index in (0, 1, 0, 2):  # the second is the one that nobody has asked for
            session.conversation().prefill(prompts[index])
            assert session.opened.prefixes.size_bytes <= 2 * one
        counts = []
        for index in (0, 2, 1):
            calls.clear()
            session.conversation().prefill(prompts[index])
            counts.append(len(calls))
        assert counts[0] == counts[1] < counts[2]
        long = session.sections_of_ids(IDS[:60])
        session.conversation().prefill(long)
        assert session.opened.prefixes.size_bytes <= 2 * one
        session.close()
        assert session.opened.prefixes.size_bytes == 0


def test_caches_that_were_loaded_from_elsewhere_are_not_kept(bundle):
    with Session.open(bundle, prefix_bytes=2**20) as session:
        other = session.conversation()
        other.prefill(session.sections_of_ids(IDS[:10]))
        session.opened.prefixes.clear()
        held = [
            (other.receiver.valid(layer, "key").copy(), other.receiver.valid(layer, "value").copy())
            for layer in range(session.bundle.manifest.pair.receiver.num_layers)
        ]
        conversation = session.conversation()
        conversation.receiver.load(held)
        first = session.sections_of_ids(IDS[:12])[0]
        conversation.append(first.receiver_ids, first.sharer_ids, first.mask)
        assert not conversation.keep()
        assert len(session.opened.prefixes) == 0


@pytest.mark.parametrize("fails_at", [0, 5])
def test_a_copy_that_fails_leaves_nothing_that_counts(bundle, monkeypatch, fails_at):
    """Ctrl-C in the middle of it: slots that were not written yet are no beginning of a prompt."""
    with Session.open(bundle, prefix_bytes=2**20) as session:
        prompt = session.sections_of_ids(IDS[:20])
        expected = session.conversation().prefill(prompt).copy()
        conversation = session.conversation()
        copy, num_copies = HostMemory.copy, 0

        def interrupted(memory, source, target, length):
            nonlocal num_copies
            num_copies += 1
            if num_copies > fails_at:
                raise KeyboardInterrupt
            copy(memory, source, target, length)

        monkeypatch.setattr(HostMemory, "copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            conversation.prefill(prompt)
        monkeypatch.undo()
        session.opened.prefixes.clear()  # so that it has to be run
        np.testing.assert_array_equal(conversation.prefill(prompt), expected)
        assert session.opened.prefixes.size_bytes > 0
