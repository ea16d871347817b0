"""The report as tables in a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from c2c_export.bench.results import BenchReport
from c2c_export.bench.rounds import Measurement, Ratio
from c2c_export.reports.stage_names import FIRST_STEP, FUSE, MESSAGE, RECEIVER, SHARER
from c2c_export.reports.words import ms

STAGES = (SHARER, RECEIVER, FUSE, FIRST_STEP)
_METRIC_WORDS = {"first_token": "first token", "decode_step": "decode step", "fuse": "fuse"}
_QUIET_LOAD = 0.25  # of the cores, over the minute before
DISTURBED = "other work was on this machine when the run began: close it and measure again"


def print_report(report: BenchReport, console: Console) -> None:
    """Print everything but single samples, which the JSON has."""
    console.print(machine_line(report), markup=False)
    if is_disturbed(report):
        console.print(DISTURBED, markup=False)
    console.print(_bundles(report))
    for length in dict.fromkeys(item.prompt_tokens for item in report.measurements):
        console.print(_times(report, length))
    console.print(_ratios(report.ratios))
    for sweep in report.sweeps:
        if sweep.skipped is not None:
            console.print(f"sweep {sweep.name}, {sweep.bundle}: {sweep.skipped}", markup=False)
            continue
        kinds = list(sweep.points[0].seconds) if sweep.points else []
        table = Table(sweep.name, *(f"{kind}, ms" for kind in kinds), title=f"{sweep.bundle}: by {sweep.name}")  # fmt: skip
        for point in sweep.points:
            table.add_row(f"{point.x}", *(ms(point.median(kind)) for kind in kinds))
        console.print(table)


def machine_line(report: BenchReport) -> str:
    """The machine and what its memory can do, in one line."""
    machine = report.machine
    return (
        f"{machine.cpu}, {machine.num_cores} cores, {report.num_threads} threads, "
        f"{machine.memory_bytes / 2**30:.0f} GiB, reads {report.bandwidth.bytes_per_s / 1e9:.1f} GB/s "
        f"({report.bandwidth.how})"
    )


def is_disturbed(report: BenchReport) -> bool:
    """Whether other work ran on the machine when the run began."""
    load = report.machine.load
    return load is not None and load > _QUIET_LOAD * report.machine.num_cores


def _bundles(report: BenchReport) -> Table:
    table = Table(
        "bundle", "precision", "gates open", "MB", "weights + caches, MB", "running, MB", "may hold, MB",
        "open, s", "cold start, s", "build, s",
    )  # fmt: skip
    for bundle in report.bundles:
        fresh = bundle.fresh
        table.add_row(
            bundle.label,
            bundle.precision,
            f"{bundle.num_open_gates} of {bundle.num_gates}",
            _mb(bundle.size_bytes),
            f"{_mb(sum(bundle.weight_bytes.values()))} + {_mb(bundle.caches_bytes)}",
            "" if fresh is None else _mb(fresh.running_bytes),
            _mb(bundle.memory_limit_bytes),
            "" if fresh is None else f"{fresh.open_s:.2f}",
            "" if fresh is None else f"{fresh.first_token_s:.2f}",
            "" if bundle.build_s is None else f"{bundle.build_s:.0f}",
        )
    return table


def _times(report: BenchReport, length: int) -> Table:
    is_told = any(item.message_share is not None for item in report.measurements)
    shown = (MESSAGE, *STAGES) if is_told else STAGES
    table = Table(
        f"{length} tokens in, ms", "first token", *shown, "step p50", "p99", "tokens/s", "added", "of bandwidth",
    )  # fmt: skip
    for item in report.measurements:
        if item.prompt_tokens != length:
            continue
        decode, stages = report.decode(item), item.median_stages()
        first = item.median("first_token")
        table.add_row(
            item.contender,
            "" if first is None else ms(first),
            *(_stage(item, stages, stage) for stage in shown),
            "" if decode is None else ms(decode.p50_s),
            "" if decode is None else ms(decode.p99_s),
            "" if decode is None else f"{decode.tokens_per_s:.1f}",
            "" if decode is None or decode.added_s is None or decode.added_share is None
            else f"{decode.added_s * 1e6:.0f} µs, {decode.added_share:.1%}",
            "" if decode is None or decode.bandwidth_share is None
            else f"{decode.bandwidth_share:.0%}",
        )  # fmt: skip
    return table


def _stage(item: Measurement, stages: dict[str, float], stage: str) -> str:
    """A stage's time; that of a message with its length and its share of the first token."""
    if not stages.get(stage):
        return ""
    if stage != MESSAGE:
        return ms(stages[stage])
    num_tokens = round(statistics.median(run.message_tokens for run in item.runs))
    return f"{ms(stages[stage])}, {num_tokens} tokens, {item.message_share or 0:.0%}"


def _ratios(ratios: Iterable[Ratio]) -> Table:
    heads = ("ours", "against", "tokens in", "what", "ratio", "of the best rounds", "rounds")
    table = Table(*heads, title="below 1 is faster")
    for ratio in ratios:
        table.add_row(
            ratio.ours,
            ratio.other,
            f"{ratio.prompt_tokens}",
            _METRIC_WORDS[ratio.metric],
            f"{ratio.median:.2f}",
            f"{ratio.best:.2f}",
            " ".join(f"{sample:.2f}" for sample in ratio.samples),
        )
    return table


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.0f}"
