"""Published tasks: where they lie on the Hugging Face hub, and what a row of each becomes.

Adapters are pure functions from a row to an item, or None for a row that is left out. Options are
called A, B, C... in the order of the row, whatever the data set calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from c2c_export.eval.items import Item

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubTask:
    """A data set of the hub. ``subset``: the one to load; None: all of them, each a group of its own.
    ``adapt`` takes a row, its place in the subset and the subset's name. ``why_skipped``: what rows
    that become no item have in common."""

    name: str
    dataset: str
    subset: str | None
    split: str
    adapt: Callable[[Row, int, str], Item | None]
    why_skipped: str = ""


def mmlu_redux_item(row: Row, place: int, subset: str) -> Item | None:
    """``question``, ``choices``, ``answer`` (index), ``error_type``. Rows whose annotators found an
    error (any type but ``ok``) are left out: their key is wrong, missing or unclear."""
    if row["error_type"] != "ok":
        return None
    return _item(row["question"], row["choices"], int(row["answer"]), f"{subset}/{place}", subset)


def arc_item(row: Row, place: int, subset: str) -> Item | None:
    """``id``, ``question``, ``choices`` {text, label}, ``answerKey``, a letter or a digit from 1."""
    labels = list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        return None
    answer = labels.index(row["answerKey"])
    return _item(row["question"], row["choices"]["text"], answer, row.get("id") or f"{place}")


def openbookqa_item(row: Row, place: int, subset: str) -> Item | None:
    """As ARC's, the question in ``question_stem``: the beginning of a sentence that an option ends."""
    return arc_item({**row, "question": row["question_stem"]}, place, subset)


def ceval_item(row: Row, place: int, subset: str) -> Item | None:
    """``question``, ``A`` to ``D``, ``answer`` (letter; empty in the split whose key is kept secret)."""
    letters = "ABCD"
    if not row["answer"] or row["answer"] not in letters:
        return None
    choices = [row[letter] for letter in letters]
    return _item(
        row["question"], choices, letters.index(row["answer"]), f"{subset}/{place}", subset
    )


def _item(
    question: str, choices: list[str], answer: int, item_id: str, group: str | None = None
) -> Item:
    texts = tuple(str(text).strip() for text in choices)
    if not 0 <= answer < len(texts) <= len(ascii_uppercase):
        raise ValueError(f"{item_id}: answer {answer} of {len(texts)} options")
    return Item(item_id, question.strip(), texts, answer, group=group)


_NO_KEY = "rows without a published answer"
HUB_TASKS: Mapping[str, HubTask] = {
    task.name: task
    for task in (
        HubTask(
            "mmlu-redux",
            "edinburgh-dawg/mmlu-redux-2.0",
            None,
            "test",
            mmlu_redux_item,
            "questions whose annotators found an error (error_type is not ok)",
        ),
        HubTask("arc-challenge", "allenai/ai2_arc", "ARC-Challenge", "test", arc_item, _NO_KEY),
        HubTask("openbookqa", "allenai/openbookqa", "main", "test", openbookqa_item, _NO_KEY),
        # The answers of C-Eval's test split are not published.
        HubTask("c-eval", "ceval/ceval-exam", None, "val", ceval_item, _NO_KEY),
    )
}
