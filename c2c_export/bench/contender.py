"""What can be measured: something that reads a prompt of ids and gives greedy tokens."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

# c2c: the whole chain. prefills: both models read the prompt, nothing is fused. receiver: alone.
# sharer: the first Sharer alone. t2t: text-to-text.
MeasuredMode = Literal["c2c", "prefills", "receiver", "sharer", "t2t"]
MODES: tuple[MeasuredMode, ...] = get_args(MeasuredMode)
DEFAULT_MODES: tuple[MeasuredMode, ...] = ("c2c", "prefills", "receiver")
BASELINE_MODES: tuple[MeasuredMode, ...] = ("sharer", "t2t")


@dataclass(frozen=True)
class Run:
    """One answer's times, all in seconds.

    ``first_token_s``: from ids to the first new id. ``stages``: its parts by name, where they are
    known. ``steps_s``: each decode step after it, choosing the id included. ``graph_steps_s``: what
    of each step was spent in the graph, where that is known. ``token_ids``: the answer, which tells
    whether two contenders compute the same. ``message_tokens``: ids of the Sharers' message, of
    text-to-text alone.
    """

    first_token_s: float
    stages: dict[str, float] = field(default_factory=dict)
    steps_s: tuple[float, ...] = ()
    graph_steps_s: tuple[float, ...] = ()
    token_ids: tuple[int, ...] = ()
    message_tokens: int = 0

    @property
    def step_s(self) -> float | None:
        """The median decode step; None if there was none."""
        return statistics.median(self.steps_s) if self.steps_s else None


class Contender(Protocol):
    """Something to measure. Made outside of the clock, used for one run after the other."""

    @property
    def name(self) -> str:
        """As tables and charts call it."""
        ...

    @property
    def mode(self) -> MeasuredMode:
        """What it computes."""
        ...

    @property
    def is_peer(self) -> bool:
        """Whether it is something else than a bundle."""
        ...

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """Read ``ids`` from nothing and give ``num_new`` greedy ids, whatever they are."""
        ...

    def close(self) -> None:
        """Give back its memory."""
        ...
