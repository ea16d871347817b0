"""What both models read of a word, cut into sections and tokens as the bundle cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.demo_fuser.words import Word
from c2c_export.demo import word_prompt
from c2c_runtime.session import Session


@dataclass(frozen=True)
class Question:
    """A word's fused section in each model's tokens, as many of one as of the other; the last section; and
    the answers, a sequence of Receiver tokens with the end token a gloss."""

    word: Word
    receiver_ids: tuple[int, ...]
    sharer_ids: tuple[int, ...]
    rest: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


def read_questions(session: Session, words: Sequence[Word]) -> list[Question]:
    """The questions of ``words`` as the bundle of ``session`` would run them."""
    tokenizer = session.tokenizer()
    end_id = session.bundle.manifest.eos_ids[0]
    questions = []
    for word in words:
        fused, last = session.sections_of_text(word_prompt(word.language, word.text))
        answers = tuple((*tokenizer.encode(gloss), end_id) for gloss in word.glosses)
        questions.append(
            Question(word, fused.receiver_ids, fused.sharer_ids[0], last.receiver_ids, answers)
        )
    return questions
