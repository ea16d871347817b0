"""Ctrl-C anywhere in a conversation: what was there stays, and what comes next is right."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from interrupts import interrupt_run, interrupted_line
from tiny_bundles import two_sharer_bundle

from c2c_runtime import Session
from c2c_runtime.chain import conversation as conversation_file
from c2c_runtime.sections.alignment import UNFUSED, Section

CHAIN = Path(conversation_file.__file__).parent
IDS = [int(i) for i in np.random.default_rng(11).integers(10, 250, 90)]


def fused(start, length, mask=3):
    ids = IDS[start : start + length]
    return Section.of(ids, [ids, ids], mask)


def unfused(start, length, first=0, span=None):
    own, other = tuple(IDS[start : start + length]), tuple(IDS[start : start + first])
    return Section(own, (other, ()), UNFUSED, span or max(length, first))


BEGIN = [unfused(0, 2, 3), fused(5, 4)]
TEMPLATE, ANSWER = unfused(10, 3, span=5), IDS[20:24]
PROMPTS = {
    "the next turn": [*BEGIN, TEMPLATE, fused(20, 4), fused(30, 3, mask=1), unfused(40, 2)],
    "another end": [*BEGIN, fused(50, 5, mask=2), unfused(60, 1)],
    "another prompt": [fused(70, 6), unfused(80, 3)],
}


@pytest.fixture(scope="module", params=[0, 2**20], ids=["nothing kept", "beginnings kept"])
def session(request, tmp_path_factory):
    with Session.open(two_sharer_bundle(tmp_path_factory), prefix_bytes=request.param) as opened:
        yield opened


def caches_of(conversation):
    return [conversation.receiver, *conversation.sharers]


def lengths(conversation):
    return [(cache.length, cache.next_position) for cache in caches_of(conversation)]


def after_a_turn(session):
    """A conversation that has answered: a gap between positions, then ids of the Receiver alone."""
    conversation = session.conversation()
    conversation.prefill([*BEGIN, TEMPLATE])
    for token_id in ANSWER:
        conversation.decode([token_id])
    return conversation


def assert_right(session, conversation, name):
    """The conversation answers a prompt as a new one does."""
    found = conversation.prefill(PROMPTS[name]).copy()
    fresh = session.conversation()
    expected = fresh.prefill(PROMPTS[name])
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    assert lengths(conversation) == lengths(fresh)


@pytest.mark.parametrize("tried", PROMPTS)
def test_after_a_prefill_that_was_interrupted_every_prompt_is_right(session, tried):
    """All lines of the chain in turn would take a minute; 23 is a step that meets most files."""
    for number in count(3, 23):
        conversation = after_a_turn(session)
        session.opened.prefixes.clear()
        session.conversation().prefill([*PROMPTS["the next turn"][:4], unfused(1, 1)])
        try:
            with interrupted_line(number, CHAIN):
                conversation.prefill(PROMPTS[tried])
        except KeyboardInterrupt:
            for name in (tried, "another end"):
                assert_right(session, conversation, name)
        else:
            assert number > 100
            return


@pytest.mark.parametrize("ids", [IDS[:1], IDS[:30]], ids=["a step", "several passes"])
def test_a_decode_that_was_interrupted_is_undone(session, ids):
    expected = after_a_turn(session).decode(ids).copy()
    conversation = after_a_turn(session)
    before = lengths(conversation)
    for number in count():
        try:
            with interrupted_line(number, CHAIN):
                conversation.decode(ids)
        except KeyboardInterrupt:
            if lengths(conversation) != before:  # it was done already
                conversation.rewind(len(ids))
            assert lengths(conversation) == before
            np.testing.assert_array_equal(conversation.decode(ids), expected)
            conversation.rewind(len(ids))
        else:
            assert number > 10
            return


@pytest.mark.parametrize("fails_at", range(5))
def test_sections_that_fail_leave_what_the_receiver_alone_has_read(session, monkeypatch, fails_at):
    """Positions of the Sharers, too, and it can still be taken back."""
    conversation = after_a_turn(session)
    before = lengths(conversation)
    interrupt_run(monkeypatch, fails_at)
    with pytest.raises(KeyboardInterrupt):
        conversation.extend([fused(30, 4), fused(50, 3)])
    monkeypatch.undo()
    assert lengths(conversation) == before
    conversation.rewind(2)
    other = after_a_turn(session)
    other.rewind(2)
    for each in (conversation, other):
        each.extend([fused(30, 4), fused(50, 3)])
    assert lengths(conversation) == lengths(other)
    np.testing.assert_array_equal(conversation.decode([5]), other.decode([5]).copy())


def test_sections_that_were_interrupted_anywhere_can_be_run_again(session):
    sections = [fused(30, 4), unfused(50, 2, 3)]
    expected = after_a_turn(session)
    expected.extend(sections)
    held = lengths(expected)
    logits = expected.decode([5]).copy()
    for number in count(0, 17):
        conversation = after_a_turn(session)
        before = lengths(conversation)
        try:
            with interrupted_line(number, CHAIN):
                conversation.extend(sections)
        except KeyboardInterrupt:
            assert lengths(conversation) in (before, held)
            if lengths(conversation) == before:
                conversation.extend(sections)
            np.testing.assert_allclose(conversation.decode([5]), logits, rtol=0, atol=1e-5)
        else:
            assert number > 50
            return


@pytest.mark.parametrize("fails_at", range(4))
def test_what_is_decoded_after_a_failed_prefill_can_be_taken_back(session, monkeypatch, fails_at):
    conversation = after_a_turn(session)
    interrupt_run(monkeypatch, fails_at)
    with pytest.raises(KeyboardInterrupt):
        conversation.prefill(PROMPTS["another end"])
    monkeypatch.undo()
    before = lengths(conversation)
    conversation.decode(IDS[:3])
    conversation.rewind(3)
    assert lengths(conversation) == before


def test_a_graph_that_does_not_load_leaves_a_conversation_that_goes_on(session, monkeypatch):
    """The answer was gone back from, then the Sharers could not be loaded."""
    conversation = after_a_turn(session)

    def fail(roles):
        raise MemoryError

    monkeypatch.setattr(session.opened.graphs, "load", fail)
    with pytest.raises(MemoryError):
        conversation.prefill(PROMPTS["another end"])
    monkeypatch.undo()
    conversation.decode(ANSWER)
    conversation.rewind(len(ANSWER))
    assert_right(session, conversation, "the next turn")


def test_interrupted_bookkeeping_of_an_answer_taken_back(session):
    for number in count():
        conversation = after_a_turn(session)
        try:
            with interrupted_line(number, CHAIN):
                conversation.rewind(2)
        except KeyboardInterrupt:
            assert_right(session, conversation, "the next turn")
        else:
            assert number > 5
            return
