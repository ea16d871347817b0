"""One thing varied, all else kept: prompt length, capacity of the caches, rows of a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from c2c_export.bench.bundle_contender import MeasuredBundle
from c2c_export.bench.text import prompt_ids
from c2c_runtime.answers.batch import Batch
from c2c_runtime.errors import CapacityError, UsageError

SweepName = Literal["prompt", "capacity", "batch"]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)

PROMPT_LENGTHS = (32, 64, 128, 256, 512, 1024)
CAPACITIES = (512, 2048, 8192)
CAPACITY_CONTEXT = 64  # tokens in the cache, whatever its capacity
BATCH_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class SweepPoint:
    """A value of what was varied, and seconds a round of each thing that was measured there."""

    x: int
    seconds: Mapping[str, tuple[float, ...]]

    def median(self, what: str) -> float:
        """The median over rounds."""
        return statistics.median(self.seconds[what])


@dataclass(frozen=True)
class Sweep:
    """One bundle's points. ``skipped``: why there are none."""

    name: SweepName
    bundle: str
    points: tuple[SweepPoint, ...] = ()
    skipped: str | None = None


def run_sweep(name: SweepName, opened: MeasuredBundle, num_new: int, num_rounds: int) -> Sweep:
    """Measure one sweep of one bundle. What does not fit the bundle is left out."""
    sweeps: Mapping[SweepName, Callable[[MeasuredBundle, int, int], list[SweepPoint]]] = {
        "prompt": _prompt,
        "capacity": _capacity,
        "batch": _batch,
    }
    try:
        return Sweep(name, opened.label, tuple(sweeps[name](opened, num_new, num_rounds)))
    except (CapacityError, UsageError) as error:
        return Sweep(name, opened.label, skipped=str(error))


def _prompt(opened: MeasuredBundle, num_new: int, num_rounds: int) -> list[SweepPoint]:
    """Time to the first token and a decode step, by the prompt's length."""
    limit = opened.bundle.manifest.limits.max_seq_len - num_new
    points = []
    for length in (length for length in PROMPT_LENGTHS if length <= limit):
        ids = prompt_ids(opened.session, length)
        opened.run(ids, 2)
        runs = [opened.run(ids, num_new) for _ in range(num_rounds)]
        points.append(
            SweepPoint(
                length,
                {
                    "first token": tuple(run.first_token_s for run in runs),
                    "decode step": tuple(run.step_s or 0.0 for run in runs),
                },
            )
        )
    return points


def _capacity(opened: MeasuredBundle, num_new: int, num_rounds: int) -> list[SweepPoint]:
    """The same context in caches of different capacity: capacities take turns within a round."""
    fits = min(opened.bundle.manifest.limits.max_seq_len, *CAPACITIES)
    num_new = min(num_new, fits // 2)
    ids = prompt_ids(opened.session, min(CAPACITY_CONTEXT, fits - num_new))
    conversations = {size: opened.conversation_of(size) for size in CAPACITIES}
    times: dict[int, dict[str, list[float]]] = {
        size: {"first token": [], "decode step": []} for size in CAPACITIES
    }
    for number in range(num_rounds + 1):
        for size in CAPACITIES if number % 2 else reversed(CAPACITIES):
            run = opened.run(ids, num_new, conversation=conversations[size])
            if number:  # the first round warms up
                times[size]["first token"].append(run.first_token_s)
                times[size]["decode step"].append(run.step_s or 0.0)
    return [
        SweepPoint(size, {what: tuple(values) for what, values in of_size.items()})
        for size, of_size in times.items()
    ]


def _batch(opened: MeasuredBundle, num_new: int, num_rounds: int) -> list[SweepPoint]:
    """A decode step of several rows, and what of it one row's token takes."""
    limits = opened.bundle.manifest.limits
    if limits.max_batch_size == 1:
        raise UsageError(
            f"{opened.label} was built for one row", "build it with --max-batch-size 4"
        )
    sizes = [size for size in BATCH_SIZES if size <= limits.max_batch_size]
    batch = Batch(opened.session)
    num_new = min(num_new, limits.max_seq_len // 2)
    ids = prompt_ids(opened.session, min(32, limits.max_seq_len // 2))
    sections = opened.session.sections_of_ids(ids)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(num_rounds + 1):
        for size in sizes:
            for row in range(size):
                batch.prefill(row, sections)
            steps = [_step(batch, size) for _ in range(num_new - 1)]
            if number:
                times[size].append(statistics.median(steps))
    return [
        SweepPoint(
            size,
            {
                "decode step": tuple(values),
                "a token": tuple(value / size for value in values),
            },
        )
        for size, values in times.items()
    ]


def _step(batch: Batch, num_rows: int) -> float:
    ids: Sequence[int] = [5] * num_rows
    started = time.perf_counter()
    batch.decode(ids)
    return time.perf_counter() - started
