"""Asking a bundle one item in one mode, and judging what it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from c2c_export.eval.extraction import extract_choice, without_thoughts
from c2c_export.eval.items import Item
from c2c_export.eval.prompts import (
    Scoring,
    Style,
    continuation_ids,
    continuations,
    prompt_of,
)
from c2c_export.eval.short_answers import is_accepted, normalised, short_answer
from c2c_export.reports.stage_names import DECODE, FUSE, MESSAGE, RECEIVER, SHARER
from c2c_runtime.answers.generation import Generation, GenerationOptions, Mode, sections_for_mode
from c2c_runtime.answers.likelihood import ContinuationScorer
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import CapacityError, UsageError
from c2c_runtime.text.text_to_text import Prompt

STAGES = (SHARER, RECEIVER, FUSE, MESSAGE, DECODE)
_SCORED_MODES: tuple[Mode, ...] = ("receiver", "c2c")  # likelihoods need the prompt's sections


@dataclass(frozen=True)
class ModeAnswer:
    """What one mode answered to one item.

    ``answer``: the option's label, or the short answer, normalised; None: none was found. ``output``:
    the text as it came; empty where options were scored. ``scores``: a number an option, the largest
    is the answer. ``num_tokens``: of the answer. ``first_token_s``: from the prompt to the first
    token, all stages before it included. ``stages``: seconds by name; prefills that ran side by side
    count for each. ``misfit``: why the item did not fit into the caches in this mode; empty: it did.
    """

    answer: str | None
    is_right: bool
    output: str
    prompt_tokens: int
    num_tokens: int
    first_token_s: float
    stages: dict[str, float]
    scores: tuple[float, ...] = field(default=())
    misfit: str = ""

    @property
    def question_s(self) -> float:
        """From the prompt to the end of the answer."""
        return self.first_token_s + self.stages[DECODE]


def modes_of(bundle: Bundle, scoring: Scoring) -> tuple[Mode, ...]:
    """The modes that a bundle can answer in, the Receiver alone first. Sharers that speak come with
    ``build --with-baselines``."""
    can_speak = bool(bundle.manifest.baselines) and scoring == "generate"
    return (*_SCORED_MODES, "sharer", "t2t") if can_speak else _SCORED_MODES


def check_modes(modes: Sequence[Mode], bundle: Bundle, scoring: Scoring) -> None:
    """Raise ``UsageError`` for modes that the bundle cannot answer in."""
    known = modes_of(bundle, scoring)
    unknown = [mode for mode in modes if mode not in known]
    if unknown:
        how = "" if scoring == "generate" else f" with --scoring {scoring}"
        raise UsageError(
            f"this bundle cannot answer in mode {', '.join(unknown)}{how}",
            f"choose among {', '.join(known)}; sharer and t2t need --scoring generate and a bundle of "
            "build --with-baselines",
        )


class Asker:
    """One mode of a session, asked item by item. Nothing is kept from one item to the next."""

    def __init__(
        self, session: Session, style: Style, scoring: Scoring, options: GenerationOptions
    ) -> None:
        """``options`` name the mode."""
        self._session = session
        self._mode = mode = options.mode
        self._alone = mode == "receiver"  # what the Sharers would read is not asked for
        self._style = style
        self._scoring = scoring
        self._options = options
        # The caches of other modes are not the pair's; what answers in them makes its own.
        self._conversation = session.conversation() if mode in _SCORED_MODES else None

    def require(self, item: Item) -> None:
        """Raise ``UsageError`` for an item that cannot be asked, as far as its prompts tell: with room for
        the longest answer, and in text-to-text for the longest messages."""
        is_scored = item.is_choice and self._scoring != "generate"
        prompt = prompt_of(item, self._style, self._scoring if is_scored else "generate")
        num_more = self._options.max_new_tokens or 1
        if is_scored:
            sizes = [len(ids) for ids in self._options_of(item, prompt)]
            if not all(sizes):
                raise UsageError("an option has no tokens, so it has no likelihood")
            num_more = max(sizes)
        if self._conversation is not None:
            _require_room(self._session, prompt, num_more)
            sections = sections_for_mode(
                self._session.sections_of(prompt, alone=self._alone), self._mode
            )
            self._conversation.require(sections)
        elif self._mode == "sharer":
            _require_room(self._session.sharer(1), prompt, num_more)
        else:
            self._require_messages(prompt, num_more)

    def _require_messages(self, prompt: Prompt, num_more: int) -> None:
        session, text_to_text = self._session, self._options.text_to_text
        session.sections_of(prompt, alone=True)
        num_sharers = len(session.bundle.manifest.pair.sharers)
        longest = text_to_text.max_message_tokens
        for number in range(1, num_sharers + 1):
            request = text_to_text.request(prompt)
            _require_room(session.sharer(number), request, longest, "the Sharer's message")
        # A message takes about as many of the Receiver's tokens as of the Sharer's own.
        told, num_told = text_to_text.told(prompt, ""), num_sharers * longest
        _require_room(session, told, num_told + num_more, "the longest message and the answer")

    def ask(self, item: Item) -> ModeAnswer:
        """Answer an item and judge the answer. What turns out too long is an answer, too: a misfit."""
        try:
            return self._ask(item)
        except CapacityError as error:
            return _misfit(error.cause)

    def _ask(self, item: Item) -> ModeAnswer:
        if self._conversation is not None:
            self._conversation.reset()
        if item.is_choice and self._scoring != "generate":
            return self._score(item)
        prompt = prompt_of(item, self._style)
        return _judged(item, self._session.ask(prompt, self._options, self._conversation).finish())

    def _score(self, item: Item) -> ModeAnswer:
        """The option that is the likeliest continuation: of labels, the log-probability; of texts,
        that divided by the text's bytes of UTF-8."""
        conversation = self._conversation
        if conversation is None:
            raise RuntimeError(f"mode {self._mode} scores no options")
        prompt = prompt_of(item, self._style, self._scoring)
        ids = self._options_of(item, prompt)
        sections = sections_for_mode(
            self._session.sections_of(prompt, alone=self._alone), self._mode
        )
        started = time.perf_counter()
        scorer = ContinuationScorer(conversation, sections)
        first_token_s = time.perf_counter() - started
        times = conversation.times
        stages = (times.sharer_prefill_s, times.receiver_prefill_s, times.fuse_s, 0.0)
        log_probs = [sum(scorer.score(option)) for option in ids]
        decode_s = time.perf_counter() - started - first_token_s
        if self._scoring == "text":
            words = continuations(item, prompt, self._scoring)
            sizes = [len(text.strip().encode()) for text in words]
            log_probs = [found / size for found, size in zip(log_probs, sizes, strict=True)]
        best = max(range(len(log_probs)), key=log_probs.__getitem__)
        return ModeAnswer(
            answer=item.option_labels[best],
            is_right=best == item.answer,
            output="",
            prompt_tokens=sum(len(section.receiver_ids) for section in sections),
            num_tokens=sum(map(len, ids)),
            first_token_s=first_token_s,
            stages=dict(zip(STAGES, (*stages, decode_s), strict=True)),
            scores=tuple(round(found, 6) for found in log_probs),
        )

    def _options_of(self, item: Item, prompt: Prompt) -> list[list[int]]:
        """The ids of every option after the prompt."""
        tokenizer = self._session.tokenizer()
        words = continuations(item, prompt, self._scoring)
        return [continuation_ids(tokenizer, prompt, text) for text in words]


def _require_room(
    session: Session, prompt: Prompt, num_more: int, what: str = "the answer"
) -> None:
    """Raise ``CapacityError`` unless a prompt and ``num_more`` tokens fit; the last needs no slot."""
    num_tokens = sum(
        len(section.receiver_ids) for section in session.sections_of(prompt, alone=True)
    )
    max_seq_len = session.bundle.manifest.limits.max_seq_len
    if num_tokens + num_more - 1 > max_seq_len:
        raise CapacityError(
            f"{num_tokens} tokens leave no room for {what} of up to {num_more} tokens in a cache of "
            f"{max_seq_len}"
        )


def _misfit(cause: str) -> ModeAnswer:
    stages = dict.fromkeys(STAGES, 0.0)
    return ModeAnswer(None, False, "", 0, 0, 0.0, stages, misfit=cause)


def _judged(item: Item, found: Generation) -> ModeAnswer:
    output = found.text or ""
    answer, is_right = judge(item, output)
    times = found.timings
    prefills = (times.sharer_prefill_s, times.receiver_prefill_s)
    return ModeAnswer(
        answer=answer,
        is_right=is_right,
        output=output,
        prompt_tokens=found.prompt_tokens,
        num_tokens=len(found.token_ids),
        first_token_s=times.first_token_s,
        stages=dict(
            zip(STAGES, (*prefills, times.fuse_s, times.message_s, times.decode_s), strict=True)
        ),
    )


def judge(item: Item, output: str) -> tuple[str | None, bool]:
    """The answer in an output, and whether it is the item's."""
    if not item.is_choice:
        answer = short_answer(without_thoughts(output))
        return normalised(answer) or None, is_accepted(answer, item.accepted)
    index = extract_choice(output, item.option_labels, item.choices)
    return (None if index is None else item.option_labels[index]), index == item.answer
