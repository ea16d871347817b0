"""What is asked of the pair, and of its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.knowledge_pair.facts import Fact, strangers
from benchmarks.knowledge_pair.scores import Score

FuserName = Literal["fuser", "closed", "control"]
BundleName = tuple[FuserName, Literal["fp32", "int8"]]


@dataclass(frozen=True)
class Condition:
    """One way to answer the prompt of a fact.

    ``fuser``: the trained one, the same with closed gates, or the control. ``mode``: as in a
    session. ``precision``: of the bundle. ``lent``: whose question the Sharer reads, the fact's own or
    a stranger's. ``told``: whether the fact stands in the prompt. ``expected``: whose city is right.
    """

    key: str
    title: str
    fuser: FuserName = "fuser"
    mode: Literal["c2c", "receiver", "t2t"] = "c2c"
    precision: Literal["fp32", "int8"] = "fp32"
    lent: Literal["own", "stranger"] = "own"
    told: bool = False
    expected: Literal["own", "stranger"] = "own"

    @property
    def bundle(self) -> BundleName:
        """Which bundle is asked."""
        return self.fuser, self.precision

    @property
    def as_asked(self) -> Condition:
        """What conditions have in common that ask the same and count differently."""
        return replace(self, key="", title="", expected="own")

    def prompt_of(self, fact: Fact) -> str:
        """What the Receiver reads."""
        return f"{fact.statement} {fact.prompt}" if self.told else fact.prompt

    def score(self, facts: Sequence[Fact], answers: Sequence[str]) -> Score:
        """How many answers are the expected cities."""
        asked = strangers(facts) if self.expected == "stranger" else facts
        return Score.of(answers, [fact.city for fact in asked])


CONDITIONS = (
    Condition("c2c", "C2C"),
    Condition("int8", "C2C, weights in int8", precision="int8"),
    Condition("receiver", "Receiver alone", mode="receiver"),
    Condition("t2t", "text-to-text", mode="t2t"),
    Condition("closed", "C2C, every gate closed", fuser="closed"),
    Condition("control", "C2C, control Fuser", fuser="control"),
    Condition("stranger", "C2C, cache of another question", lent="stranger"),
    Condition(
        "stranger_city",
        "the same, counting the other question's city",
        lent="stranger",
        expected="stranger",
    ),
    Condition("told", "Receiver alone, fact in its prompt", mode="receiver", told=True),
)
