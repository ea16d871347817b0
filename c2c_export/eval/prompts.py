"""The words around a question. Non-chain-of-thought, as in the paper's evaluation: the question, the
lettered options, and a request for the letter alone. The wording is our own."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from c2c_export.eval.items import Item
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle import names
from c2c_runtime.errors import UsageError
from c2c_runtime.text.text_to_text import Prompt
from c2c_runtime.text.tokenizer import Tokenizer

Style = Literal["chat", "plain"]
Scoring = Literal["generate", "letter", "text"]

LETTER_REQUEST = "Reply with the letter of the right option and nothing else."
TEXT_REQUEST = "Reply with the text of the right option, word for word, and nothing else."
SHORT_REQUEST = "Reply with the answer in a few words and nothing else."


def choose_style(session: Session, wish: Literal["auto", "chat", "plain"]) -> Style:
    """Chats where every model of the bundle has a chat template, else plain text.

    Raises ``UsageError`` for chats that the bundle cannot read, and where it reads no text at all.
    """
    receiver = session.tokenizer()  # raises where there is none
    num_sharers = len(session.bundle.manifest.pair.sharers)
    sharers = [names.sharer(number) for number in range(1, num_sharers + 1)]
    specs = session.bundle.manifest.tokenizers
    can_chat = receiver.has_chat_template and all(
        role in specs and specs[role].has_chat_template for role in sharers
    )
    if wish == "chat" and not can_chat:
        raise UsageError(
            "a model of this bundle has no chat template", "give --prompt-style plain or auto"
        )
    if wish == "auto":
        return "chat" if can_chat else "plain"
    return wish


def prompt_of(item: Item, style: Style, scoring: Scoring = "generate") -> Prompt:
    """What is asked: plain text, or the messages of a chat. An item's own prompt is left as it is."""
    if item.prompt is not None:
        return item.prompt
    if item.messages:
        return [{"role": role, "content": content} for role, content in item.messages]
    request = _request(item.is_choice, scoring)
    question = _question(item.question, item.choices)
    shown = [
        (
            _question(example.question, example.choices),
            _example_answer(example.choices, example.answer, scoring),
        )
        for example in item.examples
    ]
    if style == "plain":
        parts = [item.system] if item.system else []
        parts += [f"Question: {text}\nAnswer: {answer}" for text, answer in shown]
        parts.append(f"Question: {question}\n{request}\nAnswer:")
        return "\n\n".join(parts)
    messages = [{"role": "system", "content": item.system}] if item.system else []
    for text, answer in shown:
        messages.append({"role": "user", "content": f"{text}\n\n{request}"})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": f"{question}\n\n{request}"}]


def continuations(item: Item, prompt: Prompt, scoring: Scoring) -> list[str]:
    """What would follow the prompt for each option: its label or its text, after a space where plain
    text does not end in white space."""
    words = item.choices if scoring == "text" else item.option_labels
    space = " " if isinstance(prompt, str) and prompt == prompt.rstrip() else ""
    return [f"{space}{word}" for word in words]


def continuation_ids(tokenizer: Tokenizer, prompt: Prompt, continuation: str) -> list[int]:
    """The tokens that ``continuation`` adds to the prompt's.

    Both are encoded together, because tokens depend on what stands before them; where that would
    change the prompt's own tokens, the continuation is encoded by itself.
    """
    is_plain = isinstance(prompt, str)
    text = prompt if isinstance(prompt, str) else tokenizer.render_chat(prompt)
    head = tokenizer.encode(text, add_special_tokens=is_plain)
    whole = tokenizer.encode(text + continuation, add_special_tokens=is_plain)
    if len(whole) > len(head) and whole[: len(head)] == head:
        return whole[len(head) :]
    return tokenizer.encode(continuation, add_special_tokens=False)


def _request(is_choice: bool, scoring: Scoring) -> str:
    if not is_choice:
        return SHORT_REQUEST
    return TEXT_REQUEST if scoring == "text" else LETTER_REQUEST


def _question(question: str, choices: Sequence[str]) -> str:
    options = (f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False))
    return "\n".join([question, *options])


def _example_answer(choices: Sequence[str], answer: str, scoring: Scoring) -> str:
    return choices[ascii_uppercase.index(answer)] if choices and scoring == "text" else answer
