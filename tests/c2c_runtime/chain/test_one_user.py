"""A conversation that is used twice at once: the second call, or the older answer, is refused, and the
other one is right, token for token."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tiny_bundles import text_bundle

from c2c_runtime import Batch, GenerationOptions, Session, answer_batch
from c2c_runtime.answers.likelihood import ContinuationScorer
from c2c_runtime.backends.ort_backend import BoundOrtGraph
from c2c_runtime.errors import CapacityError, UsageError

IDS = [int(i) for i in np.random.default_rng(7).integers(10, 400, 90)]
GREEDY = GenerationOptions(max_new_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session.open(text_bundle(tmp_path_factory) / "bundle") as opened:
        yield opened


@pytest.fixture
def prompts(session):
    return [session.sections_of_ids(IDS[:20]), session.sections_of_ids(IDS[20:35])]


@pytest.fixture
def alone(session, prompts):
    return [session.answer(prompt, GREEDY).finish().token_ids for prompt in prompts]


def test_an_older_answer_does_not_go_on_when_a_newer_one_began(session, prompts, alone):
    conversation = session.conversation()
    older = iter(session.answer(prompts[0], GREEDY, conversation))
    assert next(older).token_id == alone[0][0]
    newer = iter(session.answer(prompts[1], GREEDY, conversation))
    found = [next(newer).token_id]
    with pytest.raises(UsageError, match="since this answer began") as error:
        next(older)
    assert error.value.remedy
    found += [piece.token_id for piece in newer]
    assert tuple(found) == alone[1]


def test_an_answer_that_is_iterated_again_begins_again(session, prompts, alone):
    answer = session.answer(prompts[0], GREEDY, session.conversation())
    first, second = iter(answer), iter(answer)
    next(first)
    next(second)
    with pytest.raises(UsageError):
        next(first)
    assert tuple(piece.token_id for piece in answer) == alone[0]


@pytest.mark.parametrize(
    "disturb",
    [
        lambda conversation: conversation.decode([5]),
        lambda conversation: conversation.append([5], [[5]], 1),
        lambda conversation: conversation.rewind(1),
        lambda conversation: conversation.reset(),
    ],
    ids=["decode", "append", "rewind", "reset"],
)
def test_whatever_changes_the_caches_ends_an_answer(session, prompts, disturb):
    conversation = session.conversation()
    answer = iter(session.answer(prompts[0], GREEDY, conversation))
    for _ in range(3):
        next(answer)
    disturb(conversation)
    with pytest.raises(UsageError, match="since this answer began"):
        next(answer)


def test_what_changes_nothing_ends_no_answer(session, prompts, alone):
    conversation = session.conversation()
    answer = iter(session.answer(prompts[0], GREEDY, conversation))
    found = [next(answer).token_id]
    conversation.keep()
    conversation.load_sharers()
    conversation.require(prompts[1])
    with pytest.raises(CapacityError):
        session.answer(session.sections_of_ids(IDS), GREEDY, conversation).finish()
    with pytest.raises(UsageError):
        conversation.decode([-1])
    found += [piece.token_id for piece in answer]
    assert tuple(found) == alone[0]


def test_an_older_scorer_does_not_go_on_either(session, prompts):
    conversation = session.conversation()
    older = ContinuationScorer(conversation, prompts[0])
    newer = ContinuationScorer(conversation, prompts[1])
    with pytest.raises(UsageError, match="since this answer began"):
        older.score(IDS[40:43])
    fresh = ContinuationScorer(session.conversation(), prompts[1])
    for ids in (IDS[40:43], IDS[50:52]):
        assert newer.score(ids) == fresh.score(ids)


@pytest.fixture
def paused(monkeypatch):
    """Call something in a thread of its own, and run the test while it is inside a graph's run."""
    start = BoundOrtGraph.start
    inside, go_on = threading.Event(), threading.Event()

    def pausing(graph):
        if threading.current_thread().name == "paused":
            inside.set()
            assert go_on.wait(60)
        start(graph)

    def call(function):
        results = []
        thread = threading.Thread(target=lambda: results.append(function()), name="paused")
        thread.start()
        assert inside.wait(60)

        def finish():
            go_on.set()
            thread.join()
            return results[0]

        return finish

    monkeypatch.setattr(BoundOrtGraph, "start", pausing)
    yield call
    go_on.set()


def test_another_thread_is_refused_and_the_first_one_is_right(session, prompts, alone, paused):
    conversation = session.conversation()
    finish = paused(lambda: session.answer(prompts[0], GREEDY, conversation).finish().token_ids)
    calls = [
        lambda: session.answer(prompts[1], GREEDY, conversation).finish(),
        lambda: conversation.prefill(prompts[1]),
        lambda: conversation.decode([5]),
        lambda: conversation.append([5], [[5]], 1),
        lambda: conversation.rewind(0),
        lambda: conversation.keep(),
        lambda: conversation.reset(),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="another thread") as error:
            call()
        assert error.value.remedy
    assert finish() == alone[0]
    assert session.answer(prompts[1], GREEDY, conversation).finish().token_ids == alone[1]


def test_a_batch_is_for_one_thread_at_a_time(session, prompts, alone, paused):
    batch = Batch(session)
    finish = paused(lambda: answer_batch(session, prompts, GREEDY, batch))
    with pytest.raises(UsageError, match="another thread"):
        answer_batch(session, prompts, GREEDY, batch)
    assert [result.token_ids for result in finish()] == alone
