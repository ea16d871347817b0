"""Text-to-text, the baseline that C2C is held against: what the Sharer is asked, what the Receiver reads.

In a chat the Sharer gets the request in place of the last question, and the Receiver reads three
messages: the request, the Sharer's message as the assistant's reply to it, and the question. The
published evaluation (thu-nics/C2C, ``rosetta/baseline/multi_stage.py``) has the same three, in words
of its own. A plain prompt has no roles: the Sharer continues the request, and the Receiver continues
the prompt with the message before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from c2c_runtime.arguments import check_count, check_switch, check_text
from c2c_runtime.errors import UsageError
from c2c_runtime.text.messages import Message, check_messages

Prompt = str | Sequence[Message]  # plain, or a chat

_ASK = (
    "Which facts should somebody know who has to answer the question below? Write them down briefly, "
    "and leave the answer itself to them.\n\nQuestion: {question}\n\nFacts:"
)
_TELL = "Facts: {message}\n\n{question}"


@dataclass(frozen=True)
class TextToText:
    """How a message is asked for and passed on.

    ``ask``: the request, with ``{question}`` in it. ``tell``: how a plain prompt is passed on, with
    ``{message}`` and ``{question}``; chats have messages for that. A message is greedy, ends with an
    EOS id of its Sharer or after ``max_message_tokens``, and is passed on without white space around
    it. ``fixed_length``: past EOS ids, always that many tokens, for measuring time.
    Raises ``UsageError`` for templates that leave something out.
    """

    ask: str = _ASK
    tell: str = _TELL
    max_message_tokens: int = 256
    fixed_length: bool = False

    def __post_init__(self) -> None:
        check_text("ask", self.ask)
        check_text("tell", self.tell)
        _check_template("ask", self.ask, {"question"})
        _check_template("tell", self.tell, {"question", "message"})
        check_count("max_message_tokens", self.max_message_tokens, 1)
        check_switch("fixed_length", self.fixed_length)

    def request(self, prompt: Prompt) -> str | list[Message]:
        """What a Sharer gets: the request, after the earlier messages where it is a chat."""
        if isinstance(prompt, str):
            return self.ask.format(question=prompt)
        *earlier, question = _ending_with_question(prompt)
        return [*earlier, self._request_of(question)]

    def told(self, prompt: Prompt, message: str) -> str | list[Message]:
        """What the Receiver gets when the Sharers wrote ``message``."""
        message = message.strip()
        if isinstance(prompt, str):
            return self.tell.format(message=message, question=prompt)
        *earlier, question = _ending_with_question(prompt)
        reply = {"role": "assistant", "content": message}
        return [*earlier, self._request_of(question), reply, question]

    def _request_of(self, question: Message) -> Message:
        return {"role": "user", "content": self.ask.format(question=question["content"])}


def _ending_with_question(messages: Sequence[Message]) -> Sequence[Message]:
    check_messages(messages)
    last = messages[-1] if messages else {}
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        raise UsageError(
            "text-to-text asks the Sharer about the last message of a chat, and that is no user's text",
            "end the chat with a message of the user",
        )
    return messages


def _check_template(name: str, text: str, fields: set[str]) -> None:
    try:
        found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise UsageError(
            f"the text-to-text template {name} cannot be read: {error}",
            "write a brace of the text twice, {{ or }}",
        ) from error
    if found != fields:
        named = " and ".join(f"{{{field}}}" for field in sorted(fields))
        raise UsageError(
            f"the text-to-text template {name} does not hold {named} and nothing else in braces",
            f"write {named} where they belong, and a brace of the text twice",
        )
