"""Contenders take turns: each round runs all of them, and what is compared is compared a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from c2c_export.bench.contender import Contender, MeasuredMode, Run
from c2c_export.reports.stage_names import FUSE, MESSAGE

# ONNX Runtime's threads spin for 30 to 50 ms after their last work, others' for less.
_SETTLE_S = 0.1

RunMetric = Callable[[Run], float | None]
METRICS: Mapping[str, RunMetric] = {
    "first_token": lambda run: run.first_token_s,
    "decode_step": lambda run: run.step_s,
    "fuse": lambda run: run.stages.get(FUSE) or None,
}


@dataclass(frozen=True)
class Measurement:
    """All runs of one contender with a prompt of one length, in the order of the rounds."""

    contender: str
    mode: MeasuredMode
    is_peer: bool
    prompt_tokens: int
    runs: tuple[Run, ...]

    def median(self, metric: str) -> float | None:
        """The median over rounds of a metric; None where it was not measured."""
        values = [value for run in self.runs if (value := METRICS[metric](run)) is not None]
        return statistics.median(values) if values else None

    def median_stages(self) -> dict[str, float]:
        """Every stage's median over rounds."""
        names = self.runs[0].stages if self.runs else {}
        return {name: statistics.median(run.stages[name] for run in self.runs) for name in names}

    @property
    def message_share(self) -> float | None:
        """What part of the time to the first token text-to-text's message is, the median; else None."""
        shares = [
            run.stages[MESSAGE] / run.first_token_s for run in self.runs if MESSAGE in run.stages
        ]
        return statistics.median(shares) if shares else None

    @property
    def steps_s(self) -> list[float]:
        """The decode steps of all rounds."""
        return [step for run in self.runs for step in run.steps_s]


@dataclass(frozen=True)
class Ratio:
    """How long ``ours`` takes for what takes ``other`` one; below 1 is faster. ``ours_s`` and
    ``other_s``: seconds in each round."""

    ours: str
    other: str
    metric: str
    prompt_tokens: int
    ours_s: tuple[float, ...]
    other_s: tuple[float, ...]

    @property
    def samples(self) -> tuple[float, ...]:
        """The ratio in each round."""
        return tuple(a / b for a, b in zip(self.ours_s, self.other_s, strict=True))

    @property
    def median(self) -> float:
        """The median over rounds: what counts."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """The fastest round of each: far from the median where other work disturbed the run."""
        return min(self.ours_s) / min(self.other_s)


def take_turns(
    contenders: Sequence[Contender],
    prompts: Sequence[Sequence[int]],
    num_new: int,
    num_rounds: int,
    on_run: Callable[[str], None] = lambda what: None,
) -> list[Measurement]:
    """Run every contender with every prompt, ``num_rounds`` times, after one run that is not counted.

    Every second round goes backwards, so that none always comes after the same other one. Only what
    is compared step by step decodes: a run without the Fuser ends with the first token. ``on_run`` is
    told what comes next.
    """
    measurements = []
    for ids in prompts:
        runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
        for contender in contenders:
            on_run(f"{contender.name}, {len(ids)} tokens, warm-up")
            contender.run(ids, min(2, num_new))
        for number in range(num_rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                on_run(f"{contender.name}, {len(ids)} tokens, round {number + 1} of {num_rounds}")
                time.sleep(_SETTLE_S)
                wanted = 1 if contender.mode == "prefills" else num_new
                runs[contender.name].append(contender.run(ids, wanted))
        measurements += [
            Measurement(c.name, c.mode, c.is_peer, len(ids), tuple(runs[c.name]))
            for c in contenders
        ]
    return measurements


def ratios_of(measurements: Sequence[Measurement]) -> list[Ratio]:
    """Every ratio that means something: of bundles to peers and to other bundles, at one prompt
    length. Times to the first token are compared where both compute the same, and the chain also with
    both prefills and with text-to-text of its own bundle; a decode step is the Receiver's in every mode."""
    ratios = []
    for ours in measurements:
        for other in measurements:
            if ours.is_peer or ours is other or ours.prompt_tokens != other.prompt_tokens:
                continue
            for metric in METRICS:
                if _is_comparable(ours, other, metric):
                    ratios += _ratio(ours, other, metric)
    return ratios


def _is_comparable(ours: Measurement, other: Measurement, metric: str) -> bool:
    if metric == "decode_step":
        return ours.mode == other.mode or (other.is_peer and ours.mode != "sharer")
    return ours.mode == other.mode or (
        metric == "first_token"
        and ours.mode == "c2c"
        and other.mode in ("prefills", "t2t")
        and ours.contender.removesuffix("c2c") == other.contender.removesuffix(other.mode)
    )


def _ratio(ours: Measurement, other: Measurement, metric: str) -> list[Ratio]:
    mine, theirs = (
        tuple(value for run in item.runs if (value := METRICS[metric](run)) is not None)
        for item in (ours, other)
    )
    if len(mine) != len(ours.runs) or len(theirs) != len(other.runs):
        return []
    return [Ratio(ours.contender, other.contender, metric, ours.prompt_tokens, mine, theirs)]
