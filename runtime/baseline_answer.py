"""Answers that C2C is compared with: the Sharer alone, and text-to-text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from c2c_runtime.conversation import Conversation
from c2c_runtime.errors import UsageError
from c2c_runtime.generation import Answer, Generation, GenerationOptions, Piece
from c2c_runtime.text_to_text import Prompt

if TYPE_CHECKING:
    from c2c_runtime.session import Session


def sharer_answer(
    session: Session,
    prompt: Prompt,
    options: GenerationOptions,
    conversation: Conversation | None,
    *,
    enable_thinking: bool,
) -> Answer:
    """The first Sharer alone answers. ``conversation``: one of ``session.sharer(1)``."""
    speaker = session.sharer(1)
    if conversation is not None and conversation.session is not speaker:
        raise UsageError(
            "mode sharer cannot go on in a conversation of the Receiver",
            "use session.sharer(1).conversation()",
        )
    sections = speaker.sections_of(prompt, enable_thinking=enable_thinking)
    return SharerAnswer(speaker, conversation, sections, options)


class SharerAnswer(Answer):
    """An answer of a session of ``session.sharer``: its prefill is a Sharer's."""

    def _finished(self, generation: Generation) -> Generation:
        timings = generation.timings
        prefill_s = timings.receiver_prefill_s
        own = replace(timings, sharer_prefill_s=prefill_s, receiver_prefill_s=0.0)
        return replace(generation, timings=own)


class MessageAnswer(Answer):
    """Text-to-text: the Sharers write, then the Receiver answers. Streams the answer alone.

    ``conversation``: the Receiver's. Each Sharer is asked the same; with several, their messages are
    joined by an empty line, in the order of the pair.
    """

    def __init__(
        self,
        session: Session,
        prompt: Prompt,
        options: GenerationOptions,
        conversation: Conversation | None,
        *,
        enable_thinking: bool,
    ) -> None:
        """Raises ``UsageError`` if a Sharer cannot speak, or the prompt cannot be asked."""
        super().__init__(session, conversation, (), options)
        self._prompt = prompt
        self._enable_thinking = enable_thinking
        num_sharers = len(session.bundle.manifest.pair.sharers)
        self._speakers = [session.sharer(number) for number in range(1, num_sharers + 1)]
        request = options.text_to_text.request(prompt)
        self._requests = [speaker.sections_of(request) for speaker in self._speakers]
        session.sections_of(prompt, enable_thinking=enable_thinking)  # refuse what it cannot read
        self._message: str | None = None
        self._message_tokens = 0
        self._message_s = 0.0

    def __iter__(self) -> Iterator[Piece]:
        # What loads on first use is no part of the time: graphs come with conversations.
        conversations = [speaker.conversation() for speaker in self._speakers]
        self._conversation = self._conversation or self._session.conversation()
        started = time.perf_counter()
        text_to_text = self._options.text_to_text
        options = GenerationOptions(
            max_new_tokens=text_to_text.max_message_tokens,
            mode="sharer",
            ignore_eos=text_to_text.fixed_length,
        )
        written = [
            Answer(speaker, conversation, sections, options).finish()
            for speaker, conversation, sections in zip(
                self._speakers, conversations, self._requests, strict=True
            )
        ]
        del conversations  # their caches are not needed any more
        self._message = "\n\n".join((generation.text or "").strip() for generation in written)
        self._message_tokens = sum(len(generation.token_ids) for generation in written)
        told = text_to_text.told(self._prompt, self._message)
        sections = self._session.sections_of(told, enable_thinking=self._enable_thinking)
        self._set_sections(sections)
        self._message_s = time.perf_counter() - started
        yield from super().__iter__()

    def _finished(self, generation: Generation) -> Generation:
        timings = generation.timings
        return replace(
            generation,
            message=self._message,
            message_tokens=self._message_tokens,
            timings=replace(
                timings,
                first_token_s=self._message_s + timings.first_token_s,
                message_s=self._message_s,
            ),
        )
