"""``python -m benchmarks.build_seconds MODELS``: how long builds take, each in a process of its own.

MODELS is what ``python -m benchmarks.full_size`` wrote. Every row is a median over rounds, its cache empty
at the first build of a round. With ``--genai`` ONNX Runtime GenAI's builder writes the same Receiver, in
the same round, start of Python included as for ours; it needs a tokenizer beside the checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

_GENAI = (sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp16", "-e", "cuda")


@dataclass(frozen=True)
class Build:
    """``options`` of one build; ``is_warm``: with the cache that the builds before it left."""

    name: str
    options: tuple[str, ...]
    is_warm: bool = False


@dataclass(frozen=True)
class Timed:
    """Seconds of the whole process and of stages, and the most memory that it held."""

    wall_s: float
    stage_s: dict[str, float]
    peak_bytes: int


def builds_of(models: Path) -> tuple[Build, ...]:
    """What is measured, in this order."""
    full = ("--receiver", str(models / "receiver"), "--sharer", str(models / "sharer"))
    full += ("--fuser", str(models / "fuser"))
    gpu = ("--target", "cuda", "--precision", "fp16", "--no-verify")
    return (
        Build("full size, fp16 for GPUs, not verified", (*full, *gpu)),
        Build("the same again", (*full, *gpu), is_warm=True),
        Build("full size, fp32 for CPUs, verified", full),
        Build("the same with --precision int8", (*full, "--precision", "int8"), is_warm=True),
        Build("demo pair, verified", ("--pair", "demo")),
        Build("the same with --precision int8", ("--pair", "demo", "--precision", "int8"), True),
    )


def timed(build: Build, folder: Path) -> Timed:
    """Run one build into ``folder``, whose cache is emptied before unless the build is warm."""
    cache, bundle = folder / "cache", folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    if not build.is_warm:
        shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "c2c_export.cli", "build", *build.options]
    started = time.perf_counter()
    called = subprocess.run(
        [*command, "-o", str(bundle), "--json"],
        env=os.environ | {"C2C_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - started
    if called.returncode:
        raise click.ClickException(f"{build.name}: {called.stderr.strip()[-500:]}")
    report = json.loads(called.stdout)
    return Timed(wall_s, report["stage_seconds"], report["peak_memory_bytes"] or 0)


def genai_seconds(receiver: Path, folder: Path) -> float:
    """How long GenAI's builder takes for the Receiver."""
    shutil.rmtree(folder / "genai", ignore_errors=True)
    places = ("-i", str(receiver), "-o", str(folder / "genai"), "-c", str(folder / "genai-cache"))
    started = time.perf_counter()
    subprocess.run([*_GENAI, *places], capture_output=True, check=True)
    return time.perf_counter() - started


def rows(results: dict[Build, list[Timed]]) -> Iterator[tuple[str, str, str, str]]:
    """Name, seconds, GiB and stages of each build, medians."""
    for build, times in results.items():
        middle = sorted(times, key=lambda one: one.wall_s)[len(times) // 2]
        stages = ", ".join(f"{name} {s:.1f}" for name, s in middle.stage_s.items() if s >= 0.5)
        wall_s = statistics.median(one.wall_s for one in times)
        peak = max(one.peak_bytes for one in times) / 2**30
        yield build.name, f"{wall_s:.1f}", f"{peak:.1f}", stages


@click.command()
@click.argument("models", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--genai", type=click.Path(path_type=Path), help="The Receiver with a tokenizer.")
@click.option("--only", multiple=True, type=int, help="Numbers of builds, from 0; default: all.")
def main(models: Path, rounds: int, genai: Path | None, only: Sequence[int]) -> None:
    """Build what MODELS holds, and the demo pair, and print how long it took."""
    wanted = [b for n, b in enumerate(builds_of(models)) if not only or n in only]
    results: dict[Build, list[Timed]] = defaultdict(list)
    others: list[float] = []
    console = Console()
    with tempfile.TemporaryDirectory(prefix="build-seconds-") as name:
        for number in range(rounds):
            for build in wanted:
                results[build].append(timed(build, Path(name)))
                took = results[build][-1].wall_s
                console.print(f"round {number + 1}: {build.name}: {took:.1f} s", highlight=False)
            if genai is not None:
                others.append(genai_seconds(genai, Path(name)))
                console.print(f"round {number + 1}: GenAI's builder: {others[-1]:.1f} s")
    table = Table("build", "s", "GiB", "stages, s")
    for row in rows(results):
        table.add_row(*row)
    if others:
        table.add_row("ONNX Runtime GenAI's builder", f"{statistics.median(others):.1f}", "", "")
    console.print(table)


if __name__ == "__main__":
    main()
