"""Modes sharer and t2t from a bundle that was built with baselines, against transformers' generate."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from baseline_bundles import PROMPT, SHARER_EOS, Eager, baseline_bundle, options
from small_tokenizers import byte_fallback, byte_level
from tiny_bundles import (
    TEMPLATE,
    copied,
    made_once,
    pair_paths,
    resigned,
)
from tiny_models import tiny_pair

from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.progress import Stages
from c2c_export.pair.asked import AskedLimits
from c2c_export.pair.pair import explicit_pair
from c2c_runtime import Session
from c2c_runtime.answers.batch import answer_batch
from c2c_runtime.bundle.bundle import read_manifest
from c2c_runtime.checks.verification import verify
from c2c_runtime.errors import CapacityError, UsageError
from c2c_runtime.text.chat_template import default_chat_template
from c2c_runtime.text.text_to_text import TextToText

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "What is the answer?"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return baseline_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def bundle(made):
    return made / "bundle"


@pytest.fixture(scope="module")
def receiver(made):
    return Eager.load(pair_paths(made / "pair")["receiver"], [2])


@pytest.fixture(scope="module")
def sharer(made):
    template = default_chat_template("qwen2")  # the checkpoint has none
    return Eager.load(pair_paths(made / "pair")["sharer"], SHARER_EOS, template)


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["text", "chat"])
def test_sharer_answers_as_transformers_generate(bundle, sharer, prompt):
    with Session.open(bundle) as session:
        answer = session.ask(prompt, options("sharer"))
        pieces = [piece.text for piece in answer]
        result = answer.result
    assert list(result.token_ids) == sharer.answer(prompt, 24)
    assert result.mode == "sharer"
    assert result.prompt_tokens == len(sharer.ids(prompt))
    assert result.text == "".join(pieces) == sharer.text(result.token_ids)
    assert result.timings.sharer_prefill_s > 0
    assert result.timings.receiver_prefill_s == result.timings.message_s == 0
    assert result.message is None


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["text", "chat"])
def test_text_to_text_is_two_generations_of_transformers(bundle, receiver, sharer, prompt):
    ask, tell = TextToText().ask, TextToText().tell
    question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    request = ask.format(question=question)
    asked = {"role": "user", "content": request}
    with Session.open(bundle) as session:
        result = session.ask(prompt, options("t2t", max_message_tokens=10)).finish()
    written = sharer.answer(request if prompt is PROMPT else [*CHAT[:-1], asked], 10)
    message = sharer.text(written)
    assert result.message == message.strip() != ""
    assert result.message_tokens == len(written)
    reply = {"role": "assistant", "content": message.strip()}
    told = (
        tell.format(message=message.strip(), question=question)
        if prompt is PROMPT
        else [*CHAT[:-1], asked, reply, CHAT[-1]]
    )
    assert list(result.token_ids) == receiver.answer(told, 24)
    assert result.prompt_tokens == len(receiver.ids(told))
    times = result.timings
    assert 0 < times.message_s < times.first_token_s
    assert times.message_s + times.receiver_prefill_s <= times.first_token_s
    assert times.sharer_prefill_s == times.fuse_s == 0


def test_text_to_text_says_what_it_was_told_to_say(bundle, sharer, receiver):
    own = {"ask": "{question} {{x}}", "tell": "{question}: {message}", "max_message_tokens": 3}
    with Session.open(bundle) as session:
        result = session.ask(PROMPT, options("t2t", 4, **own)).finish()
    message = sharer.text(sharer.answer(f"{PROMPT} {{x}}", 3)).strip()
    assert list(result.token_ids) == receiver.answer(f"{PROMPT}: {message}", 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ask": "no place"}, r"ask does not hold \{question\}"),
        ({"ask": "{question} {message}"}, "ask does not hold"),
        ({"tell": "{question}"}, r"tell does not hold \{message\} and \{question\}"),
        ({"tell": "{message} {question.__class__}"}, "tell does not hold"),
        ({"tell": "{message} {question"}, "cannot be read"),
        ({"max_message_tokens": 0}, "max_message_tokens is 0"),
    ],
)
def test_templates_that_leave_something_out_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        TextToText(**wrong)


def test_the_sharers_own_eos_ends_its_answer_and_its_message(bundle, tmp_path):
    assert read_manifest(bundle).baselines[0].eos_ids == tuple(SHARER_EOS)
    request = TextToText().ask.format(question=PROMPT)
    with Session.open(bundle) as session:
        alone = session.ask(PROMPT, options("sharer")).finish().token_ids
        written = session.ask(request, options("sharer")).finish().token_ids
    stops = copied(bundle, tmp_path / "b")
    (baseline,) = read_manifest(stops).baselines
    resigned(stops, baselines=(replace(baseline, eos_ids=(alone[4], written[3])),))
    with Session.open(stops) as session:
        result = session.ask(PROMPT, options("sharer")).finish()
        assert result.finish_reason == "eos"
        assert result.token_ids == alone[: len(result.token_ids)]
        assert len(result.token_ids) <= 5
        told = session.ask(PROMPT, options("t2t", 4)).finish()
        assert told.message_tokens <= 4
        assert told.finish_reason == "length", "the Receiver stops where the Sharer does"
        fixed = session.ask(PROMPT, options("t2t", 4, max_message_tokens=9, fixed_length=True))
        assert fixed.finish().message_tokens == 9


def test_a_message_without_words_is_passed_on_as_nothing(bundle, receiver):
    for prompt in (PROMPT, CHAT):
        told = TextToText().told(prompt, " \n")
        with Session.open(bundle) as session:
            result = session.ask(told, options("receiver", 8)).finish()
        assert list(result.token_ids) == receiver.answer(told, 8)


def test_a_bundle_without_baselines_says_how_to_get_them(made, cli):
    for mode in ("sharer", "t2t"):
        called = cli("run", made / "plain", PROMPT, "--mode", mode)
        assert called.code == 2
        assert "--with-baselines" in called.err
        assert called.out == ""
    with Session.open(made / "plain") as session, pytest.raises(UsageError, match="holds none"):
        session.sharer(1)


def test_what_cannot_be_asked_is_refused(bundle, cli, tmp_path):
    with Session.open(bundle) as session:
        sections = session.sections_of_text(PROMPT)
        for mode in ("sharer", "t2t"):
            with pytest.raises(UsageError, match="takes text or a chat"):
                session.answer(sections, options(mode))
            with pytest.raises(UsageError, match="takes text or a chat"):
                answer_batch(session, [sections], options(mode))
        with pytest.raises(UsageError, match="no user's text"):
            session.ask(CHAT[:-1], options("t2t"))
        with pytest.raises(UsageError, match="conversation of the Receiver"):
            session.ask(PROMPT, options("sharer"), session.conversation())
        with pytest.raises(UsageError, match="Sharer 2"):
            session.sharer(2)
        with pytest.raises(CapacityError):
            session.ask("a b c d " * 60, options("t2t", 4, fixed_length=True)).finish()
    called = cli("run", bundle, "--prompt-ids", "5,6,7", "--mode", "sharer")
    assert called.code == 2
    assert "--chat" in called.err


def test_a_chat_goes_on_in_a_conversation_of_the_sharer(bundle, sharer):
    with Session.open(bundle) as session:
        conversation = session.sharer(1).conversation()
        first = session.ask(CHAT[:2], options("sharer", 6), conversation).finish()
        turn = [*CHAT[:2], {"role": "assistant", "content": first.text}, CHAT[-1]]
        second = session.ask(turn, options("sharer", 6), conversation).finish()
    assert list(second.token_ids) == sharer.answer(turn, 6)


def test_an_answer_can_be_streamed_twice_and_a_session_asked_again(bundle):
    with Session.open(bundle) as session:
        answer = session.ask(PROMPT, options("t2t", 5, max_message_tokens=4))
        ids = [piece.token_id for piece in answer]
        assert tuple(ids) == answer.result.token_ids
        again = session.ask(PROMPT, options("t2t", 5, max_message_tokens=4), session.conversation())
        assert again.finish().token_ids == tuple(ids)
        assert session.sharer(1) is session.sharer(1)


def test_the_command_line_answers_and_shows_the_message(bundle, cli, tmp_path):
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps(CHAT))
    few = ("--max-new-tokens", 6, "--max-message-tokens", 5)
    for prompt in ((PROMPT,), ("--chat", chat)):
        for mode in ("sharer", "t2t"):
            streamed = cli("run", bundle, *prompt, "--mode", mode, *few)
            whole = cli("run", bundle, *prompt, "--mode", mode, *few, "--json")
            assert streamed.code == whole.code == 0, streamed.err + whole.err
            assert streamed.out == whole.json["text"] + "\n"
            assert whole.json["mode"] == mode
            assert f"[{mode}: " in streamed.err
            is_told = mode == "t2t"
            assert ("message " in streamed.err and "(5 tokens)" in streamed.err) == is_told
            assert (whole.json["message"] is not None) == is_told
            assert (whole.json["timings"]["message_s"] > 0) == is_told


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two Sharers, the first with windows of 16 tokens and a template of its own."""

    def make(directory: Path) -> None:
        sizes = {"layers": 2, "vocab": 640}
        paths = tiny_pair(directory / "pair", "llama", "gemma3_text", receiver=sizes, sharer=sizes)
        second = tiny_pair(directory / "other", "llama", "qwen2", seed=5, receiver=sizes, sharer=sizes)  # fmt: skip
        templated = deepcopy(byte_level())
        templated.chat_template = TEMPLATE
        templated.save_pretrained(paths["receiver"])
        templated.save_pretrained(paths["sharer"])
        byte_fallback().save_pretrained(second["sharer"])
        source = explicit_pair(
            str(paths["receiver"]),
            [str(paths["sharer"]), str(second["sharer"])],
            [paths["fuser"], second["fuser"]],
        )
        wanted = BuildOptions(limits=AskedLimits(448), with_baselines=True)
        report = build_bundle(source, directory / "bundle", wanted, Stages())
        roles = [graph.role for graph in report.graphs]
        assert roles.count("sharer1_speaker") == roles.count("sharer2_speaker") == 1

    return made_once(tmp_path_factory, "two_speakers", make)


def test_two_sharers_each_write_a_message(two):
    eager = [
        Eager.load(two / "pair/sharer", [2, 1]),
        Eager.load(two / "other/sharer", [2, 1], default_chat_template("qwen2")),
    ]
    own = Eager.load(two / "pair/receiver", [2])
    with Session.open(two / "bundle") as session:
        found = [comparison.name for comparison in verify(session)]
        assert any(name.startswith("Sharer 1 alone, window: ") for name in found)
        assert not any(name.startswith("Sharer 2 alone, window: ") for name in found)
        first = session.ask(PROMPT, options("sharer")).finish().token_ids
        second = session.sharer(2).ask(PROMPT, options("receiver")).finish().token_ids
        result = session.ask(CHAT, options("t2t", 12, max_message_tokens=30)).finish()
    assert list(first) == eager[0].answer(PROMPT, 24)  # past the window
    assert list(second) == eager[1].answer(PROMPT, 24)
    asked = {"role": "user", "content": TextToText().ask.format(question=CHAT[-1]["content"])}
    written = [one.answer([*CHAT[:-1], asked], 30) for one in eager]
    messages = [one.text(ids).strip() for one, ids in zip(eager, written, strict=True)]
    assert result.message == "\n\n".join(messages)
    assert result.message_tokens == sum(map(len, written))
    reply = {"role": "assistant", "content": result.message}
    assert list(result.token_ids) == own.answer([*CHAT[:-1], asked, reply, CHAT[-1]], 12)
