"""Chats through the bundle, against one masked eager forward over the padded sequence, and in turns."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from masked_eager import masked_eager
from small_tokenizers import byte_fallback, byte_level
from tiny_bundles import build, made_once, pair_paths
from tiny_models import tiny_pair

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.sections.section_texts import SectionText

SHORT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LONG = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful model."
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nHere is my answer:\n{% endif %}"
)
# Receiver and Sharer architecture and template: the longer template on either side, windows of 16
# tokens on either side.
PAIRS = {
    "long_short": ("qwen3", LONG, "gemma3_text", SHORT),
    "short_long": ("mistral", SHORT, "qwen2", LONG),
}
CHATS = {
    "one question": [{"role": "user", "content": "Why is the sky blue?"}],
    "system and trimmed content": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Why is the sky blue?  \n"},
    ],
    "three turns": [
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Light is scattered."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because air is made of small things."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    """The folders of a pair with templates, its bundle, and both eager models with the Fuser."""
    receiver_arch, receiver_template, sharer_arch, sharer_template = PAIRS[request.param]

    def make(directory: Path) -> None:
        paths = tiny_pair(
            directory,
            receiver_arch,
            sharer_arch,
            receiver={"layers": 3, "vocab": 424},
            sharer={"vocab": 640},
        )
        for side, tokenizer, template in (
            ("receiver", deepcopy(byte_level()), receiver_template),
            ("sharer", deepcopy(byte_fallback()), sharer_template),
        ):
            tokenizer.chat_template = template
            tokenizer.save_pretrained(paths[side])
        build(paths, directory / "bundle", max_seq_len=256, max_prompt_len=16)

    directory = made_once(tmp_path_factory, f"chats_{request.param}", make)
    paths = pair_paths(directory)
    receiver, sharer = (load_model(resolve_model(str(paths[s]))) for s in ("receiver", "sharer"))
    with Session.open(directory / "bundle") as session:
        yield session, receiver, sharer, read_fuser(paths["fuser"])


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
def test_a_chat_equals_the_masked_eager_pass(pair, chat):
    session, *_ = pair
    sections = session.sections_of_chat(chat)
    assert any(len(s.receiver_ids) != len(s.sharer_ids[0]) for s in sections), "nothing is padded"
    assert sum(s.mask > 0 for s in sections) == len(chat)
    _assert_equals_eager(pair, sections)


def test_section_texts_equal_the_masked_eager_pass(pair):
    """The Sharer alone reads the first section, and cuts the second into tokens of its own."""
    session, *_ = pair
    texts = [
        SectionText("", sharer_text="Light is scattered. Air is made of small things."),
        SectionText("Why is the sky blue? And at night?"),
        SectionText(" The answer is", is_fused=True),
        SectionText(":"),
    ]
    sections = session.sections_of_texts(texts)
    assert len(sections[1].receiver_ids) != len(sections[1].sharer_ids[0])
    _assert_equals_eager(pair, sections)


def _assert_equals_eager(pair, sections):
    session, receiver, sharer, fuser = pair
    yardstick = masked_eager(receiver, sharer, fuser, sections, num_greedy=24)
    conversation = session.conversation()
    for section in sections[:-1]:
        conversation.append(section.receiver_ids, section.sharer_ids, section.mask, section.span)
    for key, expected in yardstick.receiver.items():
        np.testing.assert_allclose(conversation.receiver.valid(*key), expected, rtol=0, atol=1e-4)
    for key in conversation.sharers[0].buffers:
        found = conversation.sharers[0].valid(*key)
        np.testing.assert_allclose(found, yardstick.sharer[key], rtol=0, atol=1e-4)
    logits = conversation.decode(sections[-1].receiver_ids)
    np.testing.assert_allclose(logits, yardstick.logits, rtol=0, atol=1e-4)
    answer = session.answer(sections, GenerationOptions(max_new_tokens=24, ignore_eos=True))
    assert answer.finish().token_ids == yardstick.greedy_ids


def test_a_chat_kept_in_one_conversation_equals_the_chat_from_scratch(pair):
    """Three turns, the Receiver's own answers among them. Kept caches and answers equal those of a
    new conversation that reads the whole chat, and the Receiver does not run what it holds again."""
    session, *_ = pair
    options = GenerationOptions(max_new_tokens=12)
    kept = session.conversation()
    messages = []
    for question in ("Why is the sky blue?", "Why?", "And at night?"):
        messages.append({"role": "user", "content": question})
        sections = session.sections_of_chat(messages)
        fresh = session.conversation()
        from_scratch = session.answer(sections, options, fresh).finish()
        answer = session.answer(sections, options, kept).finish()
        assert answer.token_ids == from_scratch.token_ids
        assert kept.receiver.length == fresh.receiver.length
        assert kept.receiver.next_position == fresh.receiver.next_position
        for own, other in zip([kept.receiver, *kept.sharers], [fresh.receiver, *fresh.sharers], strict=True):  # fmt: skip
            for key in own.buffers:
                np.testing.assert_allclose(own.valid(*key), other.valid(*key), rtol=0, atol=1e-4)
        messages.append({"role": "assistant", "content": answer.text})


def test_the_next_turn_runs_only_what_it_adds(pair, monkeypatch):
    session, *_ = pair
    conversation = session.conversation()
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    options = GenerationOptions(max_new_tokens=4, ignore_eos=True)
    session.answer(session.sections_of_chat(messages), options, conversation).finish()
    run: list[int] = []
    prefill = type(conversation._receiver).prefill
    monkeypatch.setattr(
        type(conversation._receiver),
        "prefill",
        lambda self, ids: (run.append(len(ids)) if self.cache.owner == "Receiver" else None, prefill(self, ids))[1],
    )  # fmt: skip
    messages += [{"role": "assistant", "content": "Light."}, {"role": "user", "content": "Why?"}]
    sections = session.sections_of_chat(messages)
    session.answer(sections, options, conversation).finish()
    first = next(i for i, s in enumerate(sections) if s.mask > 0)
    already_there = sum(len(s.receiver_ids) for s in sections[: first + 1])
    assert already_there > 0
    assert sum(run) <= sum(len(s.receiver_ids) for s in sections) - already_there


def test_a_template_that_writes_bos_gives_exactly_one(pair):
    """The Sharer's tokenizer adds a BOS of its own to plain text: not to a rendered chat."""
    session, *_ = pair
    tokenizer = session.tokenizer("sharer1")
    writes_bos = "bos_token" in (session.bundle.path_of(tokenizer.spec.path) / "chat_template.jinja").read_text()  # fmt: skip
    template = [s for s in session.sections_of_chat(CHATS["one question"]) if s.mask < 0]
    ids = [token_id for section in template for token_id in section.sharer_ids[0]]
    assert tokenizer.encode("x")[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == (1 if writes_bos else 0)
