"""An answer ends before a stop text, wherever pieces cut it, and nothing is held back longer than needed."""

from __future__ import annotations

import random

import pytest

from c2c_runtime.text.stop_texts import StopTexts


def shown(stops, pieces):
    texts = StopTexts(stops)
    parts = []
    for piece in pieces:
        parts.append(texts.push(piece))
        if texts.has_stopped:
            return parts
    return [*parts, texts.finish()]


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["\n"], "a\nb", "a"),
        (["END"], "an EN END x", "an EN "),
        (["aab"], "aaab", "a"),
        (["b", "abc"], "xabc", "xa"),
        (["bc", "abc"], "xabc", "x"),
        (["x"], "x", ""),
        (["xyz"], "xy", "xy"),
        ([], "all of it", "all of it"),
    ],
)
def test_the_text_before_the_first_stop_is_shown(stops, text, expected):
    for seed in range(30):
        draw, pieces, rest = random.Random(seed), [], text
        while rest:
            size = draw.randrange(1, len(rest) + 1) if seed else 1
            pieces.append(rest[:size])
            rest = rest[size:]
        assert "".join(shown(stops, pieces)) == expected


def test_only_what_may_begin_a_stop_is_held_back():
    texts = StopTexts(["\n\nQ:"])
    assert texts.push("a\n") == "a"
    assert texts.push("\n") == ""
    assert texts.push("b") == "\n\nb"
    assert texts.push("\n\nQ: x") == ""
    assert texts.has_stopped
