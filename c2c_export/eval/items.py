"""What is asked: items, and the task that holds them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from string import ascii_uppercase
from typing import Any

MAX_CHOICES = len(ascii_uppercase)


@dataclass(frozen=True)
class Example:
    """A question with its answer that the prompt shows before the item's own. ``choices`` empty: a
    short answer; ``answer`` is the answer's text, or the letter."""

    question: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Item:
    """One question.

    ``choices``: texts of the options; empty: a short answer. ``answer``: index of the right option.
    ``accepted``: texts of which a short answer has to equal one. ``group``: a subject, reported by
    itself. ``prompt`` (plain text) or ``messages`` (role, content) are asked as they are, in place of
    what ``prompts`` would write. ``labels``: how the options are called there, else A, B, C...
    """

    id: str
    question: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    accepted: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    system: str | None = None
    examples: tuple[Example, ...] = ()
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    group: str | None = None

    @property
    def is_choice(self) -> bool:
        """Whether one of several options is asked for, rather than a short answer."""
        return bool(self.choices)

    @property
    def option_labels(self) -> tuple[str, ...]:
        """How the options are called, in their order."""
        return self.labels or tuple(ascii_uppercase[: len(self.choices)])

    @property
    def expected(self) -> str:
        """The right answer, for people."""
        if self.answer is None:
            return " / ".join(self.accepted)
        return f"{self.option_labels[self.answer]}: {self.choices[self.answer]}"


@dataclass(frozen=True)
class Task:
    """Items to ask, in this order. ``source``: where they come from, for people. ``num_skipped``:
    items of the source that are left out, for the reason ``why_skipped``."""

    name: str
    source: str
    items: tuple[Item, ...]
    num_skipped: int = 0
    why_skipped: str = ""

    @property
    def sha256(self) -> str:
        """Of everything in the items, so that results of other questions are never mixed in."""
        data = json.dumps([as_plain(item) for item in self.items], sort_keys=True)
        return hashlib.sha256(data.encode()).hexdigest()

    def sampled(self, limit: int | None, seed: int | None) -> Task:
        """``limit`` items: the first ones, or drawn at random where there is a ``seed``, in the
        task's order. None: all."""
        if limit is None or limit >= len(self.items):
            return self
        chosen: Sequence[int] = range(limit)
        if seed is not None:
            chosen = sorted(random.Random(seed).sample(range(len(self.items)), limit))
        return replace(self, items=tuple(self.items[index] for index in chosen))


def as_plain(item: Item) -> dict[str, Any]:
    """The item without what it does not state."""
    return {name: value for name, value in asdict(item).items() if value not in (None, (), [])}
