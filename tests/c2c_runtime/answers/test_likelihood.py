"""Continuations of a prompt: each is scored as if it alone came after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interrupts import interrupted_line
from tiny_bundles import text_bundle

from c2c_runtime import Session
from c2c_runtime.answers import likelihood
from c2c_runtime.answers.generation import sections_for_mode
from c2c_runtime.answers.likelihood import ContinuationScorer, log_softmax
from c2c_runtime.errors import UsageError

PROMPT = [5, 9, 60, 33, 21]
CONTINUATIONS = [[7], [7, 8, 30], [41, 7], [7, 8, 31]]
CHAT = [{"role": "user", "content": "name a colour"}]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session.open(text_bundle(tmp_path_factory) / "bundle", num_threads=1) as session:
        yield session


def one_by_one(session, sections, ids):
    """The same from a conversation of its own, which nothing was ever taken back in."""
    conversation = session.conversation()
    logits = conversation.prefill(sections)
    found = []
    for token_id in ids:
        row = logits.copy().astype(np.float64)
        found.append(row[token_id] - np.log(np.exp(row).sum()))
        logits = conversation.decode([token_id])
    return found


@pytest.mark.parametrize("mode", ["c2c", "receiver"])
@pytest.mark.parametrize("is_chat", [False, True], ids=["plain", "chat"])
def test_every_continuation_is_scored_as_if_it_were_alone(session, mode, is_chat):
    sections = session.sections_of_chat(CHAT) if is_chat else session.sections_of_ids(PROMPT)
    sections = sections_for_mode(sections, mode)
    scorer = ContinuationScorer(session.conversation(), sections)
    for ids in CONTINUATIONS:
        expected = one_by_one(session, sections, ids)
        np.testing.assert_allclose(scorer.score(ids), expected, rtol=0, atol=1e-5)


def test_the_prompt_is_read_once_and_the_caches_stay_at_its_end(session):
    sections = session.sections_of_ids(PROMPT)
    conversation = session.conversation()
    scorer = ContinuationScorer(conversation, sections)
    scorer.score([7, 8, 30, 2])
    assert (conversation.receiver.length, conversation.receiver.next_position) == (5, 5)
    logits = conversation.decode([7]).copy()
    fresh = session.conversation()
    fresh.prefill(sections)
    np.testing.assert_array_equal(logits, fresh.decode([7]).copy())


def test_positions_after_dropped_padding_come_back(session):
    conversation = session.conversation()
    conversation.prefill(session.sections_of_chat(CHAT))
    conversation.receiver.skip(3)
    before = conversation.receiver.length, conversation.receiver.next_position
    conversation.decode([7])
    conversation.decode([8])
    conversation.rewind(2)
    assert (conversation.receiver.length, conversation.receiver.next_position) == before


def test_what_was_never_decoded_cannot_be_taken_back(session):
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(PROMPT))
    with pytest.raises(UsageError, match="2 tokens cannot be taken back"):
        conversation.rewind(2)
    with pytest.raises(UsageError, match="no likelihood"):
        ContinuationScorer(conversation, session.sections_of_ids(PROMPT)).score([])


def test_probabilities_add_up_to_one_however_large_the_logits():
    found = log_softmax(np.array([1e4, 1e4 - 1, -1e4], np.float32))
    assert np.exp(found).sum() == pytest.approx(1.0)
    assert found[0] - found[1] == pytest.approx(1.0)


@pytest.mark.parametrize("ids", [[-1], [424], [7, 424], [7, -1], [7, 1.5]])
def test_ids_that_are_not_the_receivers_have_no_likelihood(session, ids):
    scorer = ContinuationScorer(session.conversation(), session.sections_of_ids(PROMPT))
    with pytest.raises(UsageError, match="token id"):
        scorer.score(ids)


def test_a_score_that_was_interrupted_leaves_the_prompt(session):
    scorer = ContinuationScorer(session.conversation(), session.sections_of_ids(PROMPT))
    expected = scorer.score([7, 8, 30])
    for number in range(200):
        try:
            with interrupted_line(number, Path(likelihood.__file__).parent):
                scorer.score([7, 8, 30])
        except KeyboardInterrupt:
            num_held = scorer._conversation.receiver.length
            # The line that takes back is one that can be interrupted, too.
            scorer._conversation.rewind(num_held - len(PROMPT), scorer)
            assert scorer.score([7, 8, 30]) == expected
        else:
            assert number > 10
            return
