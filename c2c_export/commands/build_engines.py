"""``c2c-export build-engines``: build TensorRT engines into a bundle that is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from c2c_export.commands.options import gibibytes

if TYPE_CHECKING:
    from c2c_engines.request import EngineReport
    from c2c_runtime.progress import OnProgress


@click.command(
    "build-engines",
    epilog="""\b
Examples:
  c2c-export build-engines pair.bundle --backend tensorrt-rtx --target sm86 --target sm120
  c2c-export build-engines pair.bundle --backend tensorrt
  c2c-export build-engines pair.bundle --backend tensorrt-rtx --target sm89 --max-build-memory 6""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx"]), required=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="smNN or current; repeatable. Default: the GPU of this machine.",
)
@click.option(
    "--max-build-memory",
    type=gibibytes,
    help="GiB that the build of one engine may take; it is ended if it takes more.",
)
@click.option(
    "--workspace",
    type=gibibytes,
    help="GiB of scratch memory that an engine may take on its GPU. Default: what the GPU has.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    bundle: Path,
    backend: Any,
    targets: tuple[str, ...],
    max_build_memory: float | None,
    workspace: float | None,
    as_json: bool,
) -> None:
    """Build the engines of BUNDLE from its graphs and put them into it.

    Engines of the same backend and target are replaced; others stay. If anything fails, or on Ctrl-C,
    the bundle is as it was.
    """
    from c2c_engines.bundle_engines import EngineOptions
    from c2c_engines.install import add_engines

    options = EngineOptions(
        backend=backend,
        targets=targets,
        workspace_bytes=_bytes(workspace),
        max_memory_bytes=_bytes(max_build_memory),
    )
    console = Console(stderr=True)
    with engine_progress(console) as on_progress:
        built = add_engines(bundle, options, on_progress)
    if as_json:
        engines = [asdict(one.spec) | {"report": one.report.as_json()} for one in built]
        click.echo(json.dumps({"bundle": str(bundle), "engines": engines}))
    else:
        print_engines(console, [one.report for one in built])
        click.echo(f"{bundle}")


@contextmanager
def engine_progress(console: Console) -> Iterator[OnProgress]:
    """A bar on a terminal, one line an engine in a log."""
    engine = ""

    def say(fraction: float, phase: str) -> None:
        nonlocal engine
        if fraction < 1.0 and (now := phase.partition(":")[0]) != engine:
            engine = now
            console.print(f"building {engine}")

    if not console.is_terminal:
        yield say
        return
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda fraction, phase: progress.update(task, completed=fraction, description=phase)


def print_engines(console: Console, reports: Sequence[EngineReport]) -> None:
    """What was built, a line an engine, and what TensorRT or the checks warn of."""
    table = Table("engine", "target", "MiB", "KV updates", "attentions", "scratch MiB", "s", "GiB")
    for report in reports:
        peak = report.peak_memory_bytes
        table.add_row(
            report.role,
            report.target,
            f"{report.size_bytes / 2**20:.1f}",
            str(report.network.num_kv_updates),
            str(report.network.num_attentions),
            ", ".join(f"{size / 2**20:.1f}" for size in report.activation_bytes),
            f"{report.seconds:.1f}",
            f"{peak / 2**30:.1f}" if peak else "?",
        )
    if not all(report.inspected for report in reports):
        table.caption = "networks checked; engines not loaded: their GPU is not here"
    console.print(table)
    for report in reports:
        for warning in report.warnings:
            console.print(f"{report.role} for {report.target}: {warning}", markup=False)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
