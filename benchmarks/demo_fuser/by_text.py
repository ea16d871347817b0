"""Text-to-text and prompts with examples: the best we found for models that were not trained for these words."""

from __future__ import annotations

from benchmarks.demo_fuser.words import Word
from c2c_export.pair import demo
from c2c_runtime.text.messages import Message
from c2c_runtime.text.text_to_text import Prompt, TextToText

EXAMPLES = tuple(Word(language, text, (gloss,)) for language, text, gloss in demo.EXAMPLES)


def bare_prompt(word: Word) -> str:
    """Names the word and nothing else; what is asked for, text-to-text adds."""
    return f"{word.language}: {word.text}"


def prompt_with_examples(word: Word, num_examples: int, note: str | None = None) -> str:
    """Examples, then the word, for the model to go on after ``English:``. ``note``: what the Sharer wrote
    about it, which every example has, too."""

    def asked(word: Word, note: str | None) -> str:
        noted = "" if note is None else f"Dictionary: {note}\n"
        return f"{bare_prompt(word)}\n{noted}English:"

    shown = (
        f"{asked(example, None if note is None else example.glosses[0])} {example.glosses[0]}\n\n"
        for example in EXAMPLES[:num_examples]
    )
    return "".join(shown) + asked(word, note)


class WordByText(TextToText):
    """The Sharer is asked with examples; the first line of its message stands beside the word in what the
    Receiver reads, and beside every example the like."""

    def request(self, prompt: Prompt) -> str | list[Message]:
        """The examples and the prompt's word."""
        return prompt_with_examples(_word_of(prompt), len(EXAMPLES))

    def told(self, prompt: Prompt, message: str) -> str | list[Message]:
        """The examples and the word, each with a note."""
        note = message.strip().split("\n")[0]
        return prompt_with_examples(_word_of(prompt), len(EXAMPLES), note)


BY_TEXT = WordByText(max_message_tokens=8)


def _word_of(prompt: Prompt) -> Word:
    language, _, text = str(prompt).partition(": ")
    return Word(language, text, ())
