"""From sections to an answer: prefill, then decode step by step, streamed as pieces of text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from c2c_runtime.alignment import Section
from c2c_runtime.conversation import Conversation, StageTimes
from c2c_runtime.detokenizer import StreamingDetokenizer
from c2c_runtime.errors import UsageError
from c2c_runtime.sampling import Sampler, SamplingOptions

if TYPE_CHECKING:
    from c2c_runtime.session import Session

Mode = Literal["c2c", "receiver", "sharer", "t2t"]
FinishReason = Literal["eos", "length"]


@dataclass(frozen=True)
class GenerationOptions:
    """How to answer. ``max_new_tokens`` None: until the cache is full. ``mode`` ``receiver`` leaves
    the Sharers out; ``sharer`` and ``t2t`` need a bundle built with baselines."""

    max_new_tokens: int | None = None
    mode: Mode = "c2c"
    ignore_eos: bool = False
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(
                f"max_new_tokens is {self.max_new_tokens}", "ask for at least one token"
            )


@dataclass(frozen=True)
class Piece:
    """One decoded token and the text that it completed (empty while a character is incomplete)."""

    token_id: int
    text: str


@dataclass(frozen=True)
class Timings:
    """Seconds by stage. ``first_token_s`` runs from the start to the first id, all stages included;
    ``decode_s`` covers the ``decode_steps`` steps after it."""

    sharer_prefill_s: float
    receiver_prefill_s: float
    fuse_s: float
    first_token_s: float
    decode_s: float
    decode_steps: int


@dataclass(frozen=True)
class Generation:
    """A finished answer. ``token_ids`` include the EOS id that ended it; ``text`` is None where the
    bundle has no tokenizer."""

    mode: Mode
    text: str | None
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    timings: Timings


class Answer:
    """An answer in the making: iterate for pieces; ``result`` is there when the iteration ended."""

    def __init__(
        self,
        session: Session,
        conversation: Conversation | None,
        sections: tuple[Section, ...],
        options: GenerationOptions,
    ) -> None:
        if options.mode in ("sharer", "t2t"):
            raise UsageError(
                f"mode {options.mode} needs a Sharer that can decode; this bundle holds none",
                "use --mode c2c or --mode receiver",
            )
        self._session = session
        self._conversation = conversation
        self._sections = sections if options.mode == "c2c" else _receiver_alone(sections)
        self._options = options
        self.result: Generation | None = None

    def finish(self) -> Generation:
        """Run to the end and return the result."""
        for _ in self:
            pass
        if self.result is None:
            raise RuntimeError("the answer ended without a result")
        return self.result

    def __iter__(self) -> Iterator[Piece]:
        conversation = self._conversation or self._session.conversation()
        if self._options.mode == "c2c":
            conversation.load_sharers()
        started = time.perf_counter()
        times = conversation.times = StageTimes()
        history = [i for section in self._sections for i in section.receiver_ids]
        num_prompt = len(history)
        limit = self._limit(conversation, num_prompt)
        sampler = Sampler(self._options.sampling)
        detokenizer = self._detokenizer()
        eos_ids = () if self._options.ignore_eos else self._session.bundle.manifest.eos_ids

        logits = self._prefill(conversation)
        reason: FinishReason | None = None
        text = ""
        while reason is None:
            if len(history) > num_prompt:  # every id but the first follows a decode step
                step_started = time.perf_counter()
                logits = conversation.decode(history[-1:])
                times.decode_s += time.perf_counter() - step_started
                times.decode_steps += 1
            token_id = sampler.next_id(logits, history)
            history.append(token_id)
            if len(history) == num_prompt + 1:
                first_token_s = time.perf_counter() - started
            if token_id in eos_ids:
                reason = "eos"
            elif len(history) - num_prompt >= limit:
                reason = "length"
            piece = ""
            if detokenizer is not None:
                piece = detokenizer.push(token_id)
                if reason is not None:
                    piece += detokenizer.finish()
                text += piece
            if reason is not None:
                self.result = Generation(
                    mode=self._options.mode,
                    text=text if detokenizer is not None else None,
                    token_ids=tuple(history[num_prompt:]),
                    prompt_tokens=num_prompt,
                    finish_reason=reason,
                    timings=Timings(
                        times.sharer_prefill_s,
                        times.receiver_prefill_s,
                        times.fuse_s,
                        first_token_s,
                        times.decode_s,
                        times.decode_steps,
                    ),
                )
            yield Piece(token_id, piece)

    def _limit(self, conversation: Conversation, num_prompt: int) -> int:
        """The most ids that this answer can have. The last one needs no slot: it is never run."""
        cache = conversation.receiver
        cache.require(num_prompt)
        room = cache.max_seq_len - cache.length - num_prompt + 1
        return min(self._options.max_new_tokens or room, room)

    def _detokenizer(self) -> StreamingDetokenizer | None:
        if not self._session.has_tokenizer:
            return None
        return StreamingDetokenizer(self._session.tokenizer())

    def _prefill(self, conversation: Conversation) -> np.ndarray:
        """All sections but the last with their Sharers, the last through the Receiver alone."""
        *fused, last = self._sections
        for section in fused:
            conversation.append(
                section.receiver_ids, section.sharer_ids, section.mask, section.span
            )
        started = time.perf_counter()
        logits = conversation.decode(last.receiver_ids)
        conversation.receiver.skip(last.span - len(last.receiver_ids))
        conversation.times.receiver_prefill_s += time.perf_counter() - started
        return logits


def _receiver_alone(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """The same prompt as one section of the Receiver, without gaps for other models' templates."""
    ids = tuple(token_id for section in sections for token_id in section.receiver_ids)
    return (Section(receiver_ids=ids, sharer_ids=(), mask=-1, span=len(ids)),)
