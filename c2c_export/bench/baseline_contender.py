"""A bundle's baselines as contenders: the Sharer alone, and text-to-text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from c2c_export.bench.bundle_contender import (
    BundleContender,
    MeasuredBundle,
    one_prefill,
    timed_run,
)
from c2c_export.bench.contender import BASELINE_MODES, Contender, MeasuredMode, Run
from c2c_export.bench.text import prompt_ids
from c2c_export.reports.stage_names import MESSAGE, RECEIVER, RUNTIME, SHARER
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.errors import UsageError
from c2c_runtime.text.text_to_text import TextToText


def bundle_contenders(
    opened: MeasuredBundle, modes: Sequence[MeasuredMode], text_to_text: TextToText
) -> list[Contender]:
    """One contender a mode. Raises ``UsageError`` for modes that the bundle was not built for."""
    made: list[Contender] = []
    for mode in modes:
        if mode == "sharer":
            made.append(SharerContender(opened))
        elif mode == "t2t":
            made.append(MessageContender(opened, text_to_text))
        else:
            made.append(BundleContender(opened, mode))
    return made


class SharerContender:
    """``Contender``: the first Sharer answers a prompt of as many tokens of its own.

    Its prefill is the stage "Sharer prefill"; there is no other.
    """

    mode: MeasuredMode = "sharer"
    is_peer = False

    def __init__(self, opened: MeasuredBundle) -> None:
        self.name = f"{opened.label} sharer"
        self._session = opened.session.sharer(1)
        self._backend = opened.baseline_backends[0]
        self._conversation = self._session.conversation()

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One answer to the text's beginning in the Sharer's tokens."""
        sections = self._session.sections_of_ids(prompt_ids(self._session, len(ids)))
        options = GenerationOptions(max_new_tokens=num_new, mode="receiver", ignore_eos=True)
        self._conversation.reset()
        answer = self._session.answer(sections, options, self._conversation)
        return timed_run(answer, self._backend, num_new, partial(one_prefill, SHARER))

    def close(self) -> None:
        """The bundle is closed by who opened it."""


class MessageContender:
    """``Contender``: text-to-text about the text of a prompt.

    The message is what the Sharers write; the Receiver reads it before the prompt, so it reads more
    than the prompt's tokens. The time to the first token has the message in it.
    """

    mode: MeasuredMode = "t2t"
    is_peer = False

    def __init__(self, opened: MeasuredBundle, text_to_text: TextToText) -> None:
        self.name = f"{opened.label} t2t"
        if not opened.session.has_tokenizer:
            raise UsageError(
                f"{opened.label} holds no tokenizers, and text-to-text passes on text",
                f"leave t2t out of --mode, or use {BASELINE_MODES[0]}",
            )
        opened.session.sharer(1)
        self._opened = opened
        self._text_to_text = text_to_text

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One answer to the text of ``ids``."""
        session, conversation = self._opened.session, self._opened.conversation
        options = GenerationOptions(
            max_new_tokens=num_new, mode="t2t", ignore_eos=True, text_to_text=self._text_to_text
        )
        conversation.reset()
        answer = session.ask(session.tokenizer().decode(ids), options, conversation)
        run = timed_run(answer, self._opened.backend, num_new, partial(one_prefill, RECEIVER))
        result = answer.result
        if result is None:
            raise RuntimeError("the answer is not finished")
        message_s = result.timings.message_s
        stages = run.stages | {MESSAGE: message_s, RUNTIME: run.stages[RUNTIME] - message_s}
        return Run(
            run.first_token_s,
            stages,
            run.steps_s,
            run.graph_steps_s,
            run.token_ids,
            result.message_tokens,
        )

    def close(self) -> None:
        """The bundle is closed by who opened it."""
