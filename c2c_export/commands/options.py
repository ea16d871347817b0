"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from c2c_runtime.answers.generation import Mode
from c2c_runtime.errors import UsageError
from c2c_runtime.machine.backend_choice import DEVICES
from c2c_runtime.text.text_to_text import TextToText

if TYPE_CHECKING:
    from c2c_export.pair.pair import PairSource

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number in a range, neither NaN nor infinite."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse; anything else is a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


gibibytes = FiniteRange(min=0, min_open=True, max=2**20)
mode_choice = click.Choice(get_args(Mode))
device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where to run; auto: engines that fit this machine, else what the graphs were made for.",
)
receiver_option = click.option("--receiver", help="Directory, hub id or GGUF file of the Receiver.")
sharers_option = click.option(
    "--sharer", "sharers", multiple=True, help="The same for a Sharer; repeat in order."
)


def text_to_text_options(command: Command) -> Command:
    """``--max-message-tokens``, ``--ask`` and ``--tell``: the fields of ``TextToText``."""
    options = (
        click.option(
            "--max-message-tokens",
            type=int,
            default=TextToText.max_message_tokens,
            show_default=True,
            help="Of the Sharer's message in mode t2t.",
        ),
        click.option(
            "--ask",
            default=TextToText.ask,
            help="What the Sharer is asked for in mode t2t, with {question} in it. See docs/modes.md.",
        ),
        click.option(
            "--tell",
            default=TextToText.tell,
            help="How a plain prompt is passed on in mode t2t, with {message} and {question} in it.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def pair_source(
    pair_text: str | None,
    receiver: str | None,
    sharers: tuple[str, ...],
    fusers: tuple[Path, ...],
    multi_sharer: Any,
) -> PairSource:
    """The pair that the options name, in one of the two ways of saying it."""
    from c2c_export.pair.pair import explicit_pair, parse_pair

    if pair_text is not None:
        if receiver or sharers:
            raise UsageError(
                "--pair and --receiver/--sharer say the same thing", "give one of them"
            )
        return parse_pair(pair_text, fusers=fusers, multi_sharer=multi_sharer)
    if receiver is None or not sharers:
        raise UsageError("no pair was given", "give --pair, or --receiver, --sharer and --fuser")
    return explicit_pair(receiver, sharers, fusers, multi_sharer=multi_sharer or "sequential")
