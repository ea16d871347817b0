"""Answers that C2C is compared with: the Sharer alone, and text-to-text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from c2c_runtime.answers.generation import Answer, Generation, GenerationOptions, Piece
from c2c_runtime.answers.prompt_reader import PromptReader
from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import Section
from c2c_runtime.text.text_to_text import Prompt


def sharer_answer(
    sharer: PromptReader,
    prompt: Prompt,
    options: GenerationOptions,
    conversation: Conversation | None,
    *,
    enable_thinking: bool,
) -> Answer:
    """A Sharer alone answers, ``sharer`` reads for it. ``conversation``: one of its own."""
    if conversation is not None and conversation.opened is not sharer.opened:
        raise UsageError(
            "mode sharer cannot go on in a conversation of the Receiver",
            "use session.sharer(1).conversation()",
        )
    sections = sharer.sections_of(prompt, enable_thinking=enable_thinking)
    return SharerAnswer(sharer, conversation, sections, options)


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
        reader: PromptReader,
        sharers: Sequence[PromptReader],
        prompt: Prompt,
        options: GenerationOptions,
        conversation: Conversation | None,
        *,
        enable_thinking: bool,
    ) -> None:
        """``sharers``: who reads for each Sharer. Raises ``UsageError`` if the prompt cannot be asked."""
        super().__init__(reader, conversation, (), options)
        self._prompt = prompt
        self._enable_thinking = enable_thinking
        self._sharers = sharers
        request = options.text_to_text.request(prompt)
        self._requests = [sharer.sections_of(request) for sharer in sharers]
        self._read(prompt)  # refuse what it cannot read
        self._message: str | None = None
        self._message_tokens = 0
        self._message_s = 0.0

    def __iter__(self) -> Iterator[Piece]:
        # What loads on first use is no part of the time: graphs come with conversations.
        conversations = [sharer.conversation() for sharer in self._sharers]
        self._conversation = self._conversation or self._reader.conversation()
        started = time.perf_counter()
        text_to_text = self._options.text_to_text
        options = GenerationOptions(
            max_new_tokens=text_to_text.max_message_tokens,
            mode="sharer",
            ignore_eos=text_to_text.fixed_length,
        )
        written = [
            Answer(sharer, conversation, sections, options).finish()
            for sharer, conversation, sections in zip(
                self._sharers, conversations, self._requests, strict=True
            )
        ]
        del conversations  # their caches are not needed any more
        self._message = "\n\n".join((generation.text or "").strip() for generation in written)
        self._message_tokens = sum(len(generation.token_ids) for generation in written)
        told = text_to_text.told(self._prompt, self._message)
        self._set_sections(self._read(told))
        self._message_s = time.perf_counter() - started
        yield from super().__iter__()

    def _read(self, prompt: Prompt) -> list[Section]:
        """What the Receiver, which answers without the Sharers' caches, reads of a prompt."""
        return self._reader.sections_of(prompt, enable_thinking=self._enable_thinking, alone=True)

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
