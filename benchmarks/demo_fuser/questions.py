"""What both models read: a plain prompt that ends one token later than where the Sharer would answer.

All tokens but the last are the fused section, so the token at which Gemma is about to say the English word
lies in it. The prompt begins with SmolLM2's BOS token, which the alignment turns into Gemma's: without one
Gemma hardly understands anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.demo_fuser.words import Word
from c2c_runtime.session import Session

BOS = "<|im_start|>"


def prompt_of(word: Word) -> str:
    """``French: maison``, ``English:`` and an empty line for the answer."""
    return f"{BOS}{word.language}: {word.text}\nEnglish:\n"


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
        fused, last = session.sections_of_text(prompt_of(word))
        answers = tuple((*tokenizer.encode(gloss), end_id) for gloss in word.glosses)
        questions.append(
            Question(word, fused.receiver_ids, fused.sharer_ids[0], last.receiver_ids, answers)
        )
    return questions
