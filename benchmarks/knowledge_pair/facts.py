"""Random facts: invented people and the cities they live in, and the sentences that state them.

Every city is the home of equally many people in each split, so that a constant answer is right for
exactly one fact in 50 and no guess can profit from a frequent city.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

CITIES = [
    "Accra",
    "Amman",
    "Ankara",
    "Athens",
    "Baku",
    "Bangkok",
    "Beirut",
    "Berlin",
    "Bern",
    "Bogota",
    "Bratislava",
    "Brussels",
    "Bucharest",
    "Budapest",
    "Cairo",
    "Canberra",
    "Caracas",
    "Copenhagen",
    "Dakar",
    "Damascus",
    "Dhaka",
    "Doha",
    "Dublin",
    "Hanoi",
    "Harare",
    "Havana",
    "Helsinki",
    "Jakarta",
    "Kabul",
    "Kampala",
    "Kyiv",
    "Lima",
    "Lisbon",
    "London",
    "Madrid",
    "Manila",
    "Minsk",
    "Nairobi",
    "Oslo",
    "Ottawa",
    "Paris",
    "Prague",
    "Quito",
    "Rabat",
    "Riga",
    "Rome",
    "Seoul",
    "Sofia",
    "Tokyo",
    "Vienna",
]
NUM_TRAIN = 28  # facts a city that the Fuser is trained on
NUM_HELD_OUT = 8  # facts a city that it is tested on

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Fact:
    """A person and their city. ``split``: whether the Fuser may see it in training; the Sharer is
    trained on all facts, the Receiver on none."""

    name: str
    city: str
    split: Split

    @property
    def statement(self) -> str:
        """The fact as a sentence."""
        return f"{self.name} lives in {self.city}."

    @property
    def question(self) -> str:
        """What the Sharer answers: the fused section of the prompt."""
        return f"Where does {self.name} live?"

    @property
    def prompt(self) -> str:
        """What the Receiver answers. It ends with one token more than the question, so that the
        question's last token, where the Sharer holds its answer, is fused."""
        return f"{self.question} In"


def make_facts(seed: int) -> list[Fact]:
    """1,800 facts, sorted by name: 1,400 to train on and 400 to test."""
    generator = random.Random(seed)
    syllables = ["".join(letters) for letters in product(_CONSONANTS, _VOWELS)]
    num_facts = (NUM_TRAIN + NUM_HELD_OUT) * len(CITIES)
    names: dict[str, None] = {}
    while len(names) < num_facts:
        name = "".join(generator.choices(syllables, k=3)).capitalize()
        if name not in CITIES:
            names[name] = None
    homes: list[tuple[str, Split]] = []
    for city in CITIES:
        homes += ((city, "train") for _ in range(NUM_TRAIN))
        homes += ((city, "held_out") for _ in range(NUM_HELD_OUT))
    generator.shuffle(homes)
    facts = [Fact(name, city, split) for name, (city, split) in zip(names, homes, strict=True)]
    return sorted(facts, key=lambda fact: fact.name)


def write_facts(facts: Sequence[Fact], path: Path) -> None:
    """JSONL, one fact a line."""
    path.write_text("".join(json.dumps(asdict(fact)) + "\n" for fact in facts), "utf-8")


def read_facts(path: Path, split: Split | None = None) -> list[Fact]:
    """The facts of a split, or all, in the file's order."""
    facts = [Fact(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return [fact for fact in facts if split in (None, fact.split)]


def strangers(facts: Sequence[Fact]) -> list[Fact]:
    """For each fact another one with another city: the next in the list that has one."""
    return [
        next(
            other
            for step in range(1, len(facts))
            if (other := facts[(index + step) % len(facts)]).city != fact.city
        )
        for index, fact in enumerate(facts)
    ]
