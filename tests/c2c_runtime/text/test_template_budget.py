"""A chat template that asks for hours or gigabytes is stopped, and says so; none that does not is."""

from __future__ import annotations

import threading
import time

import pytest
from chat_templates import QWEN3, TEMPLATES

from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.text import template_budget
from c2c_runtime.text.chat_template import ChatTemplate

CHAT = [{"role": "user", "content": "hi"}]
DOUBLE = (
    "{%% set ns = namespace(a='aaaa', b=(1,), c=(1,), n=99999) %%}"
    "{%% for i in range(60) %%}{%% %s %%}{%% endfor %%}{{ %s }}"
)
NESTED = "set ns.b = (ns.b, ns.b) %}{% set ns.c = (ns.c, ns.c)"
BIG = "{% set a = 'a' * 100000 %}"

FOR_EVER = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "tests of loops": "{% for a in range(9999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(60) }}",
    "filters": "{% for i in range(9999) %}{% set a = range(99999) | sort | length %}{% endfor %}",
}
TOO_LARGE = {
    "format": "{{ '{:>9999999999}'.format(1) }}",
    "a width that is given": "{{ '{:{}}'.format(1, 9999999999) }}",
    "format_map": "{{ '{a:9999999999}'.format_map({'a': 1}) }}",
    "%": "{{ '%9999999999d' % 1 }}",
    "the filter format": "{{ '%9999999999d' | format(1) }}",
    "repeated text": "{{ 'a' * 9999999999 }}",
    "a repeated list": "{{ 9999999999 * [1] }}",
    "a power": "{{ 10 ** 9999999999 }}",
    "ljust": "{{ 'a'.ljust(9999999999) }}",
    "center": "{{ 'a' | center(9999999999) }}",
    "indent": "{{ 'a\n' | indent(9999999999) }}",
    "tojson": "{{ [[1]] | tojson(indent=9999999999) }}",
    "batch": "{{ [1] | batch(9999999999, 0) | list }}",
    "slice": "{{ [1] | slice(9999999999) | list }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(999999) }}",
    "replace": BIG + "{{ a.replace('a', a) }}",
    "the filter replace": BIG + "{{ a | replace('a', a) }}",
    "join": BIG + "{{ a.join(a) }}",
    "join of a filter": BIG + "{{ a.join(range(99999) | map('string')) }}",
    "the filter join": BIG + "{{ range(99999) | join(a) }}",
    "output in a block": BIG + "{% set x %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}",
    "text in a loop": "{% set x %}{% for i in range(99999) %}" + "b" * 999 + "{% endfor %}{% endset %}",
    "parts of a text": BIG + "{% for i in range(9999) %}{% set b = a[::-1] %}{% endfor %}",
    "a doubled sum": DOUBLE % ("set ns.a = ns.a + ns.a", "ns.a"),
    "a doubled text": DOUBLE % ("set ns.a = ns.a ~ ns.a", "ns.a"),
    "a squared number": DOUBLE % ("set ns.n = ns.n * ns.n", "1"),
    "lists in lists": DOUBLE % (NESTED, "ns.b"),
    "lists in lists as JSON": DOUBLE % (NESTED, "ns.b | tojson"),
    "lists in lists compared": DOUBLE % (NESTED, "ns.b == ns.c"),
    "lists in lists tested": DOUBLE % (NESTED, "ns.b is eq ns.c"),
    "lists in lists found": DOUBLE % (NESTED, "(ns.b,).index(ns.c)"),
    "lists in lists as keys": DOUBLE % (NESTED, "{ns.b: 1}"),
    "lists in lists looked up": DOUBLE % (NESTED, "{}[ns.b]"),
}  # fmt: skip


def stopped(source):
    with pytest.raises(UsageError, match="Sharer 1's chat template was stopped") as error:
        ChatTemplate(source, {}, whose="Sharer 1's").render(CHAT)
    assert error.value.remedy
    return str(error.value)


@pytest.mark.parametrize("source", FOR_EVER.values(), ids=FOR_EVER)
def test_what_takes_for_ever_is_stopped(source, monkeypatch):
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)
    assert "takes more than 0.2 s" in stopped(source)


@pytest.mark.parametrize("source", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_makes_too_much_is_stopped_before_it_does(source):
    assert "it makes " in stopped(source)


@pytest.mark.parametrize("source", ["{{ (1).to_bytes(9, 'big') }}", "{{ '%*d' % (9, 1) }}"])
def test_what_no_template_needs_is_forbidden(source):
    with pytest.raises(BundleError, match="may not do"):
        ChatTemplate(source, {}).render(CHAT)


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% for a in [1] %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "9" * 5000 + " }}",
    ],
    ids=["brackets", "loops", "digits"],
)
def test_what_cannot_be_read_is_a_bundle_error(source):
    with pytest.raises(BundleError, match="is not a Jinja template"):
        ChatTemplate(source, {})


def test_messages_that_hold_themselves_are_refused():
    message = {"role": "user", "content": "hi"}
    message["self"] = message
    with pytest.raises(UsageError, match="nested too deeply"):
        ChatTemplate(QWEN3, {}).render([message])


@pytest.mark.parametrize("template", TEMPLATES)
def test_long_chats_are_rendered(template):
    """A thousand turns, and one message of a million characters."""
    rendered = ChatTemplate(TEMPLATES[template], {"bos_token": "<b>"})
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}"} for n in range(1001)]
    long = [{"role": "user", "content": "word " * 200_000}]
    if template != "blocks":  # it ends after three
        assert "turn 1000" in rendered.render(turns)
    assert "word word" in rendered.render(long)


def test_threads_have_budgets_of_their_own(monkeypatch):
    """What one thread spends, or how long it sleeps, is not the other's."""
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)
    template, errors = ChatTemplate("{% for i in range(9999) %}{{ i }}{% endfor %}", {}), []

    def render():
        try:
            template.render(CHAT)
        except UsageError as error:
            errors.append(error)

    threads = [threading.Thread(target=render) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.25)
    for thread in threads:
        thread.join()
    assert errors == []
