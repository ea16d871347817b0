"""The ways in which the held-out words are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.demo_fuser.by_text import prompt_with_examples
from benchmarks.demo_fuser.words import Word
from c2c_export.demo import word_prompt
from c2c_runtime.generation import Mode

FuserName = Literal["fuser", "control"]


@dataclass(frozen=True)
class Condition:
    """One way to ask.

    ``fuser``: the trained one or the control. ``num_examples``: in the prompt; None: the prompt that the
    Fuser was trained on. ``lent``: whose question the Sharer reads.
    """

    key: str
    title: str
    mode: Mode = "c2c"
    fuser: FuserName = "fuser"
    num_examples: int | None = None
    lent: Literal["own", "stranger"] = "own"

    def prompt_of(self, word: Word) -> str:
        """What the answering model reads."""
        if self.num_examples is None:
            return word_prompt(word.language, word.text)
        return prompt_with_examples(word, self.num_examples)


CONDITIONS = (
    Condition("c2c", "C2C"),
    Condition("control", "C2C, control Fuser", fuser="control"),
    Condition("stranger", "C2C, cache of another word", lent="stranger"),
    Condition("receiver", "Receiver alone, the same prompt", mode="receiver"),
    Condition("receiver_4", "Receiver alone, 4 examples", mode="receiver", num_examples=4),
    Condition("receiver_8", "Receiver alone, 8 examples", mode="receiver", num_examples=8),
    Condition("sharer_8", "Sharer alone, 8 examples", mode="sharer", num_examples=8),
    Condition("t2t", "text-to-text, 8 examples for both", mode="t2t"),
)
