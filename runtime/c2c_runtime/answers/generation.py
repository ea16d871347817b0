"""From sections to an answer: prefill, then decode step by step, streamed as pieces of text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from c2c_runtime.answers.prompt_reader import PromptReader
from c2c_runtime.answers.sampling import Sampler, SamplingOptions
from c2c_runtime.arguments import check_choice, check_count, check_kind, check_switch, shown
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.chain.conversation import Conversation, StageTimes
from c2c_runtime.chain.logits import Logits
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, Section
from c2c_runtime.sections.section_rules import checked_sections
from c2c_runtime.text.detokenizer import StreamingDetokenizer
from c2c_runtime.text.stop_texts import StopTexts
from c2c_runtime.text.text_to_text import TextToText

Mode = Literal["c2c", "receiver", "sharer", "t2t"]
FinishReason = Literal["eos", "stop", "length"]
DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class GenerationOptions:
    """How to answer. ``max_new_tokens`` None: until the cache is full. ``stop``: texts that end the
    answer before they come (``stop_texts``); they need a tokenizer. ``mode`` ``receiver`` leaves
    the Sharers out; ``sharer``, the first Sharer alone, and ``t2t``, text-to-text as ``text_to_text`` says,
    need a bundle built with baselines, and text or a chat: see ``Session.ask``.
    Raises ``UsageError`` that names the option, its value and what is allowed."""

    max_new_tokens: int | None = DEFAULT_NEW_TOKENS
    mode: Mode = "c2c"
    ignore_eos: bool = False
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    text_to_text: TextToText = field(default_factory=TextToText)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens, 1, or_none=True)
        check_choice("mode", self.mode, get_args(Mode))
        check_switch("ignore_eos", self.ignore_eos)
        check_kind("sampling", self.sampling, SamplingOptions, "SamplingOptions")
        check_kind("text_to_text", self.text_to_text, TextToText, "a TextToText")
        texts = 'a tuple of texts that are not empty, such as ("\\n",)'
        check_kind("stop", self.stop, (tuple, list), texts)
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError(f"stop is {shown(self.stop)}", f"give {texts}")


@dataclass(frozen=True)
class Piece:
    """One decoded token and the text that it completed: empty while a character is incomplete, or while
    a stop text may have begun."""

    token_id: int
    text: str


@dataclass(frozen=True)
class Timings:
    """Seconds by stage. ``first_token_s`` runs from the start to the first id, all stages included;
    ``decode_s`` covers the ``decode_steps`` steps after it. ``message_s``: what the Sharers took for their
    message in text-to-text, prefill and all; ``sharer_prefill_s`` is 0 there."""

    sharer_prefill_s: float
    receiver_prefill_s: float
    fuse_s: float
    first_token_s: float
    decode_s: float
    decode_steps: int
    message_s: float = 0.0


@dataclass(frozen=True)
class Generation:
    """A finished answer. ``token_ids`` include the EOS id that ended it, or those that spell the text
    that stopped it, which ``text`` leaves out; ``text`` is None where the
    bundle has no tokenizer. ``message``: what the Sharers wrote in text-to-text, ``message_tokens`` ids
    in all, their EOS ids included. ``prompt_tokens``: what the model that answers has read, so of
    text-to-text the message, too."""

    mode: Mode
    text: str | None
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    timings: Timings
    message: str | None = None
    message_tokens: int = 0


class AnswerWriter:
    """Logits in, pieces out: chooses each id, turns ids into text, and knows when the answer ends."""

    def __init__(
        self,
        reader: PromptReader,
        options: GenerationOptions,
        sections: Sequence[Section],
        max_seq_len: int,
    ) -> None:
        """``max_seq_len``: of the Receiver's cache. The last id of an answer needs no slot in it."""
        self._mode = options.mode
        self._ids = [i for section in sections for i in section.receiver_ids]
        self._num_prompt = len(self._ids)
        room = max_seq_len - self._num_prompt + 1
        self._limit = min(options.max_new_tokens or room, room)
        self._sampler = Sampler(options.sampling)
        self._eos_ids = () if options.ignore_eos else reader.opened.bundle.manifest.eos_ids
        self._detokenizer = (
            StreamingDetokenizer(reader.tokenizer()) if reader.has_tokenizer else None
        )
        if options.stop and self._detokenizer is None:
            raise UsageError(
                "stop texts need a tokenizer, and this bundle holds none",
                "leave stop out, or look for token ids in what comes",
            )
        self._stops = StopTexts(options.stop)
        self._text: list[str] = []
        self.finish_reason: FinishReason | None = None

    @property
    def last_id(self) -> int:
        """The id that the next decode step runs."""
        return self._ids[-1]

    def write(self, logits: Logits) -> Piece:
        """Choose the next id. Sets ``finish_reason`` if it is the last one."""
        token_id = self._sampler.next_id(logits, self._ids)
        self._ids.append(token_id)
        if token_id in self._eos_ids:
            self.finish_reason = "eos"
        elif len(self._ids) - self._num_prompt >= self._limit:
            self.finish_reason = "length"
        text = ""
        if self._detokenizer is not None:
            text = self._detokenizer.push(token_id)
            if self.finish_reason is not None:
                text += self._detokenizer.finish()
            text = self._stops.push(text)
            if self._stops.has_stopped:
                self.finish_reason = "stop"
            elif self.finish_reason is not None:
                text += self._stops.finish()
            self._text.append(text)
        return Piece(token_id, text)

    def generation(self, times: StageTimes, first_token_s: float) -> Generation:
        """The finished answer."""
        if self.finish_reason is None:
            raise RuntimeError("the answer is not finished")
        return Generation(
            mode=self._mode,
            text=None if self._detokenizer is None else "".join(self._text),
            token_ids=tuple(self._ids[self._num_prompt :]),
            prompt_tokens=self._num_prompt,
            finish_reason=self.finish_reason,
            timings=Timings(
                times.sharer_prefill_s,
                times.receiver_prefill_s,
                times.fuse_s,
                first_token_s,
                times.decode_s,
                times.decode_steps,
            ),
        )


class Answer:
    """An answer in the making: iterate for pieces; ``result`` is there when the iteration ended.

    Once something else is run in its conversation, another answer for one, the iteration ends with
    ``UsageError``.
    """

    def __init__(
        self,
        reader: PromptReader,
        conversation: Conversation | None,
        sections: Sequence[Section],
        options: GenerationOptions,
    ) -> None:
        check_kind("options", options, GenerationOptions, "GenerationOptions")
        check_kind(
            "conversation",
            conversation,
            Conversation,
            "one of session.conversation()",
            or_none=True,
        )
        if conversation is not None and conversation.opened is not reader.opened:
            raise UsageError(
                "the conversation belongs to another session",
                "give one that session.conversation() of this session made",
            )
        self._reader = reader
        self._conversation = conversation
        self._options = options
        self._set_sections(sections)
        self.result: Generation | None = None

    def _set_sections(self, sections: Sequence[Section]) -> None:
        self._sections = sections_for_mode(checked_sections(sections), self._options.mode)

    def _finished(self, generation: Generation) -> Generation:
        """What ``result`` becomes."""
        return generation

    def finish(self) -> Generation:
        """Run to the end and return the result."""
        for _ in self:
            pass
        if self.result is None:
            raise RuntimeError("the answer ended without a result")
        return self.result

    def __iter__(self) -> Iterator[Piece]:
        turn = object()  # of this iteration: another one, or another answer, ends it
        conversation = self._conversation or self._reader.conversation()
        if self._options.mode == "c2c":
            conversation.load_sharers()
        times = conversation.times = StageTimes()
        started = time.perf_counter()
        logits = conversation.prefill(self._sections, turn)
        writer = AnswerWriter(
            self._reader, self._options, self._sections, conversation.receiver.max_seq_len
        )
        piece = writer.write(logits)
        first_token_s = time.perf_counter() - started
        while writer.finish_reason is None:
            yield piece
            started = time.perf_counter()
            logits = conversation.decode([writer.last_id], turn)
            times.decode_s += time.perf_counter() - started
            times.decode_steps += 1
            piece = writer.write(logits)
        self.result = self._finished(writer.generation(times, first_token_s))
        yield piece


def sections_for_mode(sections: Sequence[Section], mode: Mode) -> tuple[Section, ...]:
    """A prompt's sections as a mode reads them. All but ``c2c``: the same ids as one section of the
    model that answers, without gaps for other models' templates."""
    if mode == "c2c":
        return tuple(sections)
    ids = tuple(token_id for section in sections for token_id in section.receiver_ids)
    return (Section(receiver_ids=ids, sharer_ids=(), mask=UNFUSED, span=len(ids)),)


def check_mode_of_ids(mode: Mode, bundle: Bundle) -> None:
    """Raise ``UsageError`` for a mode that cannot answer token ids, which are the Receiver's; first of all
    where no Sharer of the bundle can answer anything."""
    if mode in ("sharer", "t2t"):
        bundle.baseline(1)
        raise UsageError(
            f"mode {mode} takes text or a chat: the token ids of a prompt are the Receiver's, and a "
            "Sharer reads its own",
            "give a prompt or --chat; ids of a Sharer's own go to session.sharer(number).answer",
        )
