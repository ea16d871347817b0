"""What both models read of a word, cut into sections and tokens as the bundle cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.demo_fuser.words import Word
from c2c_export.pair.demo import word_sections
from c2c_runtime.answers.session import Session
from c2c_runtime.sections.alignment import Section

# Tokens of the Receiver, of the Sharer, and positions, a section.
Shape = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Question:
    """A word's sections: the last but one is fused, the last is the Receiver's alone. And the answers,
    a sequence of Receiver tokens with the end token a gloss."""

    word: Word
    sections: tuple[Section, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> Shape:
        """Questions of one shape can run together."""
        return tuple((len(s.receiver_ids), len(s.sharer_ids[0]), s.span) for s in self.sections)


def read_questions(session: Session, words: Sequence[Word]) -> list[Question]:
    """The questions of ``words`` as the bundle of ``session`` would run them."""
    tokenizer = session.tokenizer()
    end_id = session.bundle.manifest.eos_ids[0]
    return [
        Question(
            word,
            tuple(session.sections_of_texts(word_sections(word.language, word.text))),
            tuple((*tokenizer.encode(gloss), end_id) for gloss in word.glosses),
        )
        for word in words
    ]
