"""What callers give wrong in Python: a ``UsageError`` with a remedy where it is given, never another error."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_bundles import text_bundle

from c2c_runtime import (
    Batch,
    GenerationOptions,
    SamplingOptions,
    SectionText,
    Session,
    answer_batch,
)
from c2c_runtime.answers.likelihood import ContinuationScorer
from c2c_runtime.errors import UsageError
from c2c_runtime.text.text_to_text import TextToText

NO_COUNTS = (0, -1, 1.5, "3", True, float("nan"), {}, 10**5000 * -1)
NO_SWITCHES = (1, "no", None, {})
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture(scope="module")
def session(bundle):
    with Session.open(bundle) as opened:
        yield opened


def assert_refused(call, name):
    with pytest.raises(UsageError, match=name) as error:
        call()
    assert error.value.remedy
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (GenerationOptions, "max_new_tokens", NO_COUNTS),
        (GenerationOptions, "mode", ("C2C", "c2c ", "", None, 1, {}, ["c2c"])),
        (GenerationOptions, "ignore_eos", NO_SWITCHES),
        (GenerationOptions, "sampling", (None, 0.5, {"temperature": 1.0})),
        (GenerationOptions, "text_to_text", (None, "ask")),
        (SamplingOptions, "temperature", (None, "1", {}, True, float("nan"), -1)),
        (SamplingOptions, "top_k", (None, *NO_COUNTS[1:])),
        (SamplingOptions, "top_p", (None, "1", {}, True, float("nan"), 1.1)),
        (SamplingOptions, "repetition_penalty", (None, "1", {}, True, float("nan"), 0)),
        (SamplingOptions, "seed", NO_COUNTS[1:]),
        (TextToText, "ask", (None, 5, b"{question}")),
        (TextToText, "tell", (None, 5)),
        (TextToText, "max_message_tokens", (None, *NO_COUNTS)),
        (TextToText, "fixed_length", NO_SWITCHES),
        (SectionText, "is_fused", NO_SWITCHES),
    ],
)
def test_an_option_is_checked_where_it_is_made(kind, name, values):
    needed = {"text": "t"} if kind is SectionText else {}
    for value in values:
        assert_refused(lambda value=value: kind(**needed, **{name: value}), name)


def test_numbers_of_numpy_count(session):
    options = GenerationOptions(
        np.int64(2), sampling=SamplingOptions(np.float32(0.5), np.int32(3), np.float64(0.9))
    )
    sections = session.sections_of_ids(np.arange(5, 9))
    assert len(session.answer(sections, options).finish().token_ids) in (1, 2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("device", ("gpu", "CPU", None, 0, {})),
        ("num_threads", NO_COUNTS),
        ("cuda_stream", NO_COUNTS[1:]),
        ("check_hashes", NO_SWITCHES),
        ("preload", NO_SWITCHES),
        ("warm_up", NO_SWITCHES),
        ("prefix_bytes", (None, *NO_COUNTS[1:])),
    ],
)
def test_how_a_session_is_opened(bundle, name, values):
    for value in values:
        assert_refused(lambda value=value: Session.open(bundle, **{name: value}), name)


def test_a_path_is_a_path():
    for path in (None, 5, b"bundle", ["bundle"]):
        assert_refused(lambda path=path: Session.open(path), "path")


def test_what_a_session_is_asked(session):
    sections = session.sections_of_ids([5, 6, 7])
    calls = {
        "prompt is a list of sections": [
            lambda: session.answer("hello"),
            lambda: session.answer([5, 6, 7]),
            lambda: session.answer(None),
            lambda: answer_batch(session, [[5, 6]]),
        ],
        "GenerationOptions": [
            lambda: session.answer(sections, {"mode": "receiver"}),
            lambda: session.answer(sections, {}),
            lambda: session.ask("hello", "receiver"),
            lambda: session.chat(CHAT, max_tokens=5),
            lambda: session.chat(CHAT, temperature=0.5),
            lambda: answer_batch(session, [sections], 5),
        ],
        "conversation": [lambda: session.answer(sections, None, session)],
        "batch": [lambda: answer_batch(session, [sections], None, session)],
        "prompts": [lambda: answer_batch(session, None), lambda: answer_batch(session, "hello")],
        "messages of a chat": [
            lambda: session.ask(None),
            lambda: session.ask(5),
            lambda: session.sections_of_chat("hello"),
            lambda: session.sections_of_chat(CHAT[0]),
            lambda: session.sections_of_chat(iter(CHAT)),
        ],
        "message 0": [lambda: session.sections_of_chat(["hello"])],
        "enable_thinking": [
            lambda: session.sections_of_chat(CHAT, enable_thinking="no"),
            lambda: session.ask(CHAT, enable_thinking=None),
        ],
        "text": [
            lambda: session.sections_of_text(None),
            lambda: session.sections_of_text(["hello"]),
            lambda: session.sections_of_texts("hello"),
            lambda: session.sections_of_texts(["hello"]),
            lambda: SectionText(5),
            lambda: SectionText("a", sharer_text=5),
        ],
        "token ids are integers": [
            lambda: session.sections_of_ids(None),
            lambda: session.sections_of_ids("567"),
            lambda: session.sections_of_ids(5),
        ],
        "section": [
            lambda: session.sections_of_ids([5, 6], "1:1,1:-1"),
            lambda: session.sections_of_ids([5, 6], [1, 1]),
            lambda: session.sections_of_ids([5, 6], [(1.0, 1), (1, -1)]),
            lambda: session.sections_of_ids([5, 6], [(1, "1"), (1, -1)]),
            lambda: session.sections_of_ids([5, 6], [(1, 1, 1), (1, -1)]),
            lambda: session.sections_of_ids([5, 6], []),
        ],
        "number": [lambda: session.sharer("1"), lambda: session.sharer({})],
        "role": [lambda: session.tokenizer(1), lambda: session.tokenizer({})],
    }
    for name, wrong in calls.items():
        for call in wrong:
            assert_refused(call, name)


def test_what_a_conversation_is_asked(session):
    conversation = session.conversation()
    calls = [
        lambda: conversation.decode(5),
        lambda: conversation.decode(None),
        lambda: conversation.decode([]),
        lambda: conversation.append(5, [[5]]),
        lambda: conversation.append([5], 5),
        lambda: conversation.append([5], [5]),
        lambda: conversation.append([5], [[5]], "1"),
        lambda: conversation.append([5], [[5]], 1.0),
        lambda: conversation.append([5], [[5]], span="1"),
        lambda: conversation.append([5], [[5]], span=1.5),
        lambda: conversation.extend([[5]]),
        lambda: conversation.prefill([5, 6]),
        lambda: conversation.prefill([]),
        lambda: conversation.rewind(1.0),
        lambda: conversation.rewind("1"),
        lambda: conversation.rewind(-1),
        lambda: Batch(session).prefill(0, [5]),
        lambda: ContinuationScorer(conversation, "hello"),
    ]
    for call in calls:
        assert_refused(call, ".")
    assert conversation.receiver.length == 0
    scorer = ContinuationScorer(conversation, session.sections_of_ids([5, 6]))
    for ids in (5, None, "5", [], [1.0]):
        assert_refused(lambda ids=ids: scorer.score(ids), ".")
