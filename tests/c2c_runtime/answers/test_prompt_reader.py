"""Whose tokenizer and template read a prompt: those of the models that are going to, and no others."""

from __future__ import annotations

import pytest
from tiny_bundles import copied, rehashed, text_bundle

from c2c_runtime import GenerationOptions, Session
from c2c_runtime.answers.generation import sections_for_mode
from c2c_runtime.errors import UsageError

REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ALONE = GenerationOptions(max_new_tokens=4, mode="receiver", ignore_eos=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


def refusing(bundle, path, role):
    template = f"tokenizers/{role}/chat_template.jinja"
    changed = copied(bundle, path)
    (changed / template).write_text(REFUSES)
    return rehashed(changed, template)


def test_a_sharers_template_is_not_asked_for_an_answer_of_the_receiver(bundle, tmp_path):
    with Session.open(bundle) as session:
        expected = session.ask(CHAT, ALONE).finish().token_ids
    with Session.open(refusing(bundle, tmp_path / "b", "sharer1")) as session:
        assert session.ask(CHAT, ALONE).finish().token_ids == expected
        with pytest.raises(UsageError, match=r"Sharer 1's chat template refuses.*No system role"):
            session.ask(CHAT)


def test_the_receivers_own_refusal_is_named(bundle, tmp_path):
    with (
        Session.open(refusing(bundle, tmp_path / "b", "receiver")) as session,
        pytest.raises(UsageError, match=r"the Receiver's chat template refuses.*No system role"),
    ):
        session.ask(CHAT, ALONE)


@pytest.mark.parametrize("prompt", ["Why is the sky blue?", CHAT, CHAT[1:]])
def test_the_receiver_alone_reads_the_same_ids(bundle, prompt):
    with Session.open(bundle) as session:
        alone = session.sections_of(prompt, alone=True)
        together = session.sections_of(prompt)
    assert sections_for_mode(alone, "receiver") == sections_for_mode(together, "receiver")
