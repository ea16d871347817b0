from __future__ import annotations

import pytest
from chat_templates import QWEN3, SMOLLM2

from c2c_runtime.errors import UsageError
from c2c_runtime.text.chat_spans import content_spans
from c2c_runtime.text.chat_template import ChatTemplate


def found(source: str, *contents: str) -> tuple[str, list[tuple[int, int] | None], int]:
    """The rendered chat, the spans, and how often the template was rendered."""
    template = ChatTemplate(source, {})
    num_renders = 0

    def render(messages):
        nonlocal num_renders
        num_renders += 1
        return template.render(messages)

    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    text, spans = content_spans(messages, render)
    assert text == template.render(messages)
    return text, spans, num_renders


def test_a_chat_of_any_length_is_rendered_twice():
    text, spans, num_renders = found(SMOLLM2, *["again"] * 50)
    assert num_renders == 2
    assert [text[slice(*span)] for span in spans] == ["again"] * 50
    assert spans == sorted(spans)


@pytest.mark.parametrize(
    ("filter", "kept"),
    [("trim", "a b"), ("string", " a b\n"), ("replace('\n', '')", " a b"), ("lower", " a b\n")],
)
def test_what_a_template_trims_is_not_in_the_span(filter, kept):
    text, spans, num_renders = found("[{{ messages[0].content | " + filter + " }}]", " a b\n")
    assert num_renders == 2
    assert text[slice(*spans[0])] == kept


def test_the_first_of_two_showings_counts():
    text, spans, _ = found("a{{ messages[0].content }}b{{ messages[0].content }}", "x")
    assert text == "axbx"
    assert spans == [(1, 2)]


def test_a_mark_written_in_a_message_or_template_is_no_trouble():
    text, spans, _ = found("c2cmarkq0z {{ messages[0].content }} c2cmarkkq0z", "c2cmarkq0z")
    assert spans == [(11, 21)]
    assert text[11:21] == "c2cmarkq0z"


def test_a_content_inside_what_the_template_adds_for_it_is_found_behind_it():
    source = (
        "{% for m in messages %}<{% if m.content.startswith('sup') %}super: {% endif %}"
        "{{ m.content }}>{% endfor %}"
    )
    text, spans, _ = found(source, "sup", "sup")
    assert text == "<super: sup><super: sup>"
    assert spans == [(8, 11), (20, 23)]


def test_a_rewritten_content_is_what_the_template_made_of_it():
    text, spans, _ = found("[{{ messages[0].content | upper }}]", "shout")
    assert text == "[SHOUT]"
    assert spans == [None]  # marks do not survive it: nothing is fused
    reasoned = "<think>\n4\n</think>\n\n4"
    text, spans, _ = found(QWEN3, "4", reasoned, "4")
    assert "think" not in text
    assert [text[slice(*span)] for span in spans] == ["4", "4", "4"]
    assert text[spans[1][0] - 10 : spans[1][0]] == "assistant\n"


def test_a_template_that_takes_no_marks_is_searched():
    source = (
        "{% for m in messages %}{% if m.content not in ('yes', 'no') %}"
        "{{ raise_exception('say yes or no') }}{% endif %}<{{ m.content }}>{% endfor %}"
    )
    text, spans, _ = found(source, "yes", "no", "yes")
    assert text == "<yes><no><yes>"
    assert spans == [(1, 4), (6, 8), (10, 13)]


def test_what_says_nothing_or_is_left_out_has_no_span():
    assert found("[{{ messages[0].content }}]", " ")[1] == [None]
    assert found("[{{ messages[0].content }}]", "a", "b")[1] == [(1, 2), None]
    assert found("[nothing]", "nothing")[1] == [None]


def test_content_that_is_no_text_is_a_usage_error():
    with pytest.raises(UsageError, match="content of message 0 is int"):
        content_spans([{"role": "user", "content": 5}], lambda messages: "")
