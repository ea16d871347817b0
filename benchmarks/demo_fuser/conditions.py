"""The ways in which the held-out words are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.demo_fuser.by_text import bare_prompt, prompt_with_examples
from benchmarks.demo_fuser.words import Word
from c2c_export.pair.demo import word_sections
from c2c_runtime.answers.generation import Mode
from c2c_runtime.answers.session import Session
from c2c_runtime.sections.alignment import Section

FuserName = Literal["fuser", "control"]


@dataclass(frozen=True)
class Condition:
    """One way to ask.

    ``fuser``: the trained one or the control. ``num_examples``: in the prompt; None: the sections that the
    Fuser was trained on. ``lent``: whose word the Sharer reads. ``keeps_examples``: what the Sharer has
    read of the examples stays in the conversation from word to word, as it would in a service.
    ``is_drawn``: has a point in the chart, where there is room for few.
    """

    key: str
    title: str
    mode: Mode = "c2c"
    fuser: FuserName = "fuser"
    num_examples: int | None = None
    lent: Literal["own", "stranger"] = "own"
    keeps_examples: bool = False
    is_drawn: bool = True

    def sections_of(self, session: Session, word: Word) -> list[Section]:
        """The question, where the Receiver answers it itself."""
        if self.num_examples is None:
            return session.sections_of_texts(word_sections(word.language, word.text))
        return session.sections_of_text(prompt_with_examples(word, self.num_examples))

    def text_of(self, word: Word) -> str:
        """The question, where the Sharer speaks."""
        if self.mode == "t2t":
            return bare_prompt(word)
        return prompt_with_examples(word, self.num_examples or 0)


CONDITIONS = (
    Condition("c2c", "C2C"),
    Condition("kept", "C2C, the examples' caches kept", keeps_examples=True),
    Condition("control", "C2C, control Fuser", fuser="control"),
    Condition("stranger", "C2C, cache of another word", lent="stranger"),
    Condition("receiver", "Receiver alone, no examples", mode="receiver"),
    Condition(
        "receiver_4", "Receiver alone, 4 examples", mode="receiver", num_examples=4, is_drawn=False
    ),
    Condition("receiver_8", "Receiver alone, 8 examples", mode="receiver", num_examples=8),
    Condition("sharer_8", "Sharer alone, 8 examples", mode="sharer", num_examples=8),
    Condition("t2t", "text-to-text, 8 examples for both", mode="t2t"),
)
