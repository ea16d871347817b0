from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

import pytest
from chat_templates import GEMMA3, QWEN3, QWEN25, SMOLLM2, TEMPLATES
from small_tokenizers import byte_fallback, byte_level, exported

from c2c_runtime.errors import BundleError, C2CError, UsageError
from c2c_runtime.text.chat_template import ChatTemplate, default_chat_template

CHATS = {
    "one": [{"role": "user", "content": "Why is the sky <b>blue</b> & wide?"}],
    "turns": [
        {"role": "system", "content": " Be terse. \n"},
        {"role": "user", "content": "  Name three 色.\n"},
        {"role": "assistant", "content": "<think>\nwhat?\n</think>\n\nRed", "name": None},
        {"role": "user", "content": "More 🚀?"},
    ],
    "reasoning": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning": "easy"},
    ],
}


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["chatml", "bos"])
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_renders_as_transformers_does(template, chat, prompt, thinking, tokenizer, tmp_path):
    source, messages = TEMPLATES[template], CHATS[chat]
    ours = exported(tokenizer, tmp_path, source).render_chat(messages, prompt, thinking)
    theirs = tokenizer.apply_chat_template(
        messages,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=prompt,
        enable_thinking=thinking,
    )
    assert ours == theirs
    assert ours


def test_tools_and_other_variables_reach_the_template(tmp_path):
    tools = [{"type": "function", "name": "f<x>", "description": "naïve"}]
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": [1, "é"]}}]}
    messages = [{"role": "user", "content": "hi"}, call]
    ours = exported(byte_level(), tmp_path, QWEN25).render_chat(messages, tools=tools)
    theirs = byte_level().apply_chat_template(
        messages, chat_template=QWEN25, tokenize=False, add_generation_prompt=True, tools=tools
    )
    assert ours == theirs
    assert "f<x>" in ours


def test_thinking_is_switched_off_by_default(tmp_path):
    tokenizer = exported(byte_level(), tmp_path, QWEN3)
    assert tokenizer.render_chat(CHATS["one"]).endswith("<think>\n\n</think>\n\n")
    assert tokenizer.render_chat(CHATS["one"], enable_thinking=True).endswith("assistant\n")


def test_the_date_is_todays():
    text = ChatTemplate("{{ strftime_now('%Y') }}", {}).render(CHATS["one"])
    assert text == str(datetime.now().year)


def test_default_template_of_gemma_is_its_turn_format():
    text = ChatTemplate(default_chat_template("gemma3_text"), {"bos_token": "<bos>"}).render(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    )
    assert text == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>model\n"
    )


def test_default_template_needs_no_bos_token():
    text = ChatTemplate(default_chat_template("llama"), {}).render(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    )
    assert text == "system: Be kind.\nuser: Hi\nassistant:"


def test_what_a_template_refuses_is_a_usage_error():
    template = ChatTemplate(GEMMA3, {"bos_token": ""})
    with pytest.raises(UsageError, match="Roles must alternate") as error:
        template.render([{"role": "assistant", "content": "hi"}])
    assert error.value.remedy


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["hello"],
        [{"content": "no role"}],
        [{"role": "user"}],
        [{"role": "user", "content": ["a", "b"]}],
    ],
)
def test_messages_that_cannot_be_rendered_are_a_usage_error(messages):
    with pytest.raises(UsageError) as error:
        ChatTemplate(SMOLLM2, {}).render(messages)
    assert error.value.remedy


def test_a_template_that_does_not_parse_is_a_bundle_error():
    with pytest.raises(BundleError, match=r"chat_template\.jinja, line 2"):
        ChatTemplate("fine\n{% if %}", {}, origin="chat_template.jinja")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source):
    with pytest.raises(BundleError, match="may not"):
        ChatTemplate(source, {}).render(CHATS["one"])


def test_a_template_cannot_change_what_it_is_given_through_dict():
    source = "{{ dict.update(messages[0], content='changed') }}{{ messages[0].content }}"
    with pytest.raises(C2CError):
        ChatTemplate(source, {}).render(CHATS["one"])


def test_messages_are_seen_as_plain_data():
    class Role(StrEnum):
        USER = "user"

    text = ChatTemplate("{{ messages | tojson }}", {}).render(
        [{"role": Role.USER, "content": ("a", 1.5, True, {"at": Path("/")})}]
    )
    assert text == '[{"role": "user", "content": ["a", 1.5, true, {"at": "<PosixPath>"}]}]'


def test_rendering_leaves_the_messages_alone():
    messages = [{"role": "assistant", "content": "x", "reasoning": "y", "name": None}]
    ChatTemplate(QWEN3, {}).render(messages)
    assert messages == [{"role": "assistant", "content": "x", "reasoning": "y", "name": None}]
