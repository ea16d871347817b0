"""What an evaluation came to: a summary a mode, what pairs of modes have in common, and its JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from c2c_export.eval.answering import STAGES, ModeAnswer
from c2c_export.eval.items import Item, Task
from c2c_export.eval.results_file import Answers, RunKey
from c2c_export.eval.statistics import Accuracy, Paired, share_alike
from c2c_export.reports.machine_facts import MachineFacts, machine_facts

SCHEMA_VERSION = 1
BASELINE = "receiver"
MODE_NAMES = {
    "receiver": "Receiver alone",
    "sharer": "Sharer alone",
    "t2t": "text-to-text",
    "c2c": "C2C",
}


@dataclass(frozen=True)
class ModeSummary:
    """All answers of one mode. ``num_without``: outputs in which no answer was found. ``num_misfits``:
    items that did not fit in this mode. Both count as wrong. Times in seconds: ``first_token_p50_s`` the
    median, ``question_s`` and ``stages`` means. Tokens are means an item. Of items that fit."""

    mode: str
    accuracy: Accuracy
    groups: dict[str, Accuracy]
    num_without: int
    num_misfits: int
    first_token_p50_s: float
    question_s: float
    stages: dict[str, float]
    prompt_tokens: float
    num_tokens: float

    @property
    def name(self) -> str:
        """For people."""
        return MODE_NAMES[self.mode]


@dataclass(frozen=True)
class Versus:
    """A mode against the Receiver alone, on the same items: the mode is ``paired``'s first."""

    mode: str
    paired: Paired


@dataclass(frozen=True)
class Agreement:
    """Two modes: share of items with the same answer, and of items that both got right."""

    first: str
    second: str
    same_answer: float
    both_right: float


@dataclass(frozen=True)
class EvalReport:
    """Everything an evaluation says. ``answers``: of each of ``task``'s items, by mode."""

    command: str
    task: Task
    key: RunKey
    machine: MachineFacts
    modes: tuple[ModeSummary, ...]
    versus: tuple[Versus, ...]
    agreements: tuple[Agreement, ...]
    answers: Mapping[str, Answers]

    def agreement(self, one: str, other: str) -> Agreement | None:
        """Of two modes, in either order; None of a mode with itself."""
        for found in self.agreements:
            if {found.first, found.second} == {one, other}:
                return found
        return None

    @property
    def differing(self) -> list[Item]:
        """Items that some modes got right and others wrong, in the task's order."""
        return [
            item
            for item in self.task.items
            if len({answer.is_right for answer in self.answers[item.id].values()}) > 1
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values. Times in seconds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "run": asdict(self.key),
            "task": {
                "name": self.task.name,
                "source": self.task.source,
                "num_items": len(self.task.items),
                "num_skipped": self.task.num_skipped,
                "why_skipped": self.task.why_skipped,
            },
            "machine": asdict(self.machine),
            "modes": {summary.mode: _summary_as_json(summary) for summary in self.modes},
            "versus_receiver": {
                found.mode: asdict(found.paired)
                | {
                    "difference": found.paired.difference,
                    "interval_95": list(found.paired.interval),
                    "mcnemar_p": found.paired.p_value,
                }
                for found in self.versus
            },
            "agreement": [asdict(found) for found in self.agreements],
            "items": [
                {
                    "id": item.id,
                    "expected": item.expected,
                    "answers": {
                        mode: {"answer": answer.answer, "is_right": answer.is_right}
                        for mode, answer in self.answers[item.id].items()
                    },
                }
                for item in self.task.items
            ],
        }


def make_report(
    task: Task, key: RunKey, answers: Mapping[str, Answers], command: str = ""
) -> EvalReport:
    """Count. ``answers`` holds every item of the task in every mode of ``key``."""
    by_mode = {mode: [answers[item.id][mode] for item in task.items] for mode in key.modes}
    right = {mode: [answer.is_right for answer in found] for mode, found in by_mode.items()}
    versus = (
        tuple(
            Versus(mode, Paired.of(right[mode], right[BASELINE]))
            for mode in key.modes
            if mode != BASELINE
        )
        if BASELINE in right
        else ()
    )
    return EvalReport(
        command=command,
        task=task,
        key=key,
        machine=machine_facts(),
        modes=tuple(_summary(mode, task, found) for mode, found in by_mode.items()),
        versus=versus,
        agreements=tuple(
            Agreement(
                one,
                other,
                share_alike(
                    [answer.answer for answer in by_mode[one]],
                    [answer.answer for answer in by_mode[other]],
                ),
                Paired.of(right[one], right[other]).both / len(task.items),
            )
            for one, other in combinations(key.modes, 2)
        ),
        answers=answers,
    )


def _summary(mode: str, task: Task, answers: Sequence[ModeAnswer]) -> ModeSummary:
    groups: dict[str, list[bool]] = {}
    for item, answer in zip(task.items, answers, strict=True):
        if item.group is not None:
            groups.setdefault(item.group, []).append(answer.is_right)
    fitting = [answer for answer in answers if not answer.misfit]
    asked = fitting or answers
    return ModeSummary(
        mode=mode,
        accuracy=Accuracy(sum(answer.is_right for answer in answers), len(answers)),
        groups={name: Accuracy(sum(right), len(right)) for name, right in sorted(groups.items())},
        num_without=sum(answer.answer is None for answer in fitting),
        num_misfits=len(answers) - len(fitting),
        first_token_p50_s=statistics.median(answer.first_token_s for answer in asked),
        question_s=statistics.fmean(answer.question_s for answer in asked),
        stages={
            stage: statistics.fmean(answer.stages[stage] for answer in asked) for stage in STAGES
        },
        prompt_tokens=statistics.fmean(answer.prompt_tokens for answer in asked),
        num_tokens=statistics.fmean(answer.num_tokens for answer in asked),
    )


def _summary_as_json(summary: ModeSummary) -> dict[str, Any]:
    return asdict(summary) | {
        "accuracy": summary.accuracy.as_json(),
        "groups": {name: found.as_json() for name, found in summary.groups.items()},
    }
