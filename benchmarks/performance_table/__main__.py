"""``python -m benchmarks.performance_table``: measure what the table of docs/performance.md needs."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.performance_table.measured import Measured
from benchmarks.performance_table.rows import (
    FULL_SIZE_TOKENS,
    LONG,
    LONGEST,
    MIDDLE,
    SHORT,
    all_rows,
    markdown,
)
from c2c_export.bench.measure import BenchOptions, run_bench
from c2c_export.pair.pair import explicit_pair, parse_pair
from c2c_runtime.bundle.bundle import read_manifest


@click.command(
    epilog="""\b
Example:
  python -m benchmarks.performance_table --fp32 fp32.bundle --int8 int8.bundle --int4 int4.bundle \\
    --half-gates half.bundle -o performance.json
  python -m benchmarks.performance_table --from performance.json"""
)
@click.option("--fp32", type=click.Path(path_type=Path), help="The demo pair.")
@click.option("--int8", type=click.Path(path_type=Path), help="The demo pair.")
@click.option("--int4", type=click.Path(path_type=Path), help="The demo pair.")
@click.option(
    "--half-gates",
    type=click.Path(path_type=Path),
    help="The demo pair in fp32 with a Fuser of `init-fuser --open-share 0.5`.",
)
@click.option(
    "--full-size", type=click.Path(path_type=Path), help="Of `benchmarks.full_size`, int8."
)
@click.option(
    "--full-size-models",
    type=click.Path(path_type=Path),
    help="Folder with its receiver, sharer, fuser.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--from", "saved", type=click.Path(path_type=Path), help="Print a saved run again.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write every sample as JSON.")
def main(
    fp32: Path | None,
    int8: Path | None,
    int4: Path | None,
    half_gates: Path | None,
    full_size: Path | None,
    full_size_models: Path | None,
    rounds: int,
    threads: int | None,
    saved: Path | None,
    output: Path | None,
) -> None:
    """Measure the bundles that are given, against the peers that are installed, and print the table."""
    if saved is not None:
        measured = Measured(**json.loads(saved.read_text(encoding="utf-8"))["measured"])
    else:
        demo = {"fp32": fp32, "int8": int8, "int4": int4, "half_gates": half_gates}
        given = {part: path for part, path in demo.items() if path is not None}
        if not given and full_size is None:
            raise click.UsageError("give a bundle, or --from FILE")
        measured = _measure(given, full_size, full_size_models, rounds, threads)
    rows = all_rows(measured)
    if output is not None:
        content = {"rows": [asdict(row) for row in rows], "measured": asdict(measured)}
        output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    click.echo(markdown(rows))


def _measure(
    demo: dict[str, Path],
    full_size: Path | None,
    full_size_models: Path | None,
    rounds: int,
    threads: int | None,
) -> Measured:
    command = shlex.join(["python", "-m", "benchmarks.performance_table", *sys.argv[1:]])
    common: dict[str, Any] = {"num_rounds": rounds, "num_threads": threads, "command": command}
    runs: list[dict[str, Any]] = []
    labels = {part: _label(path) for part, path in demo.items()}
    if demo:
        source, paths = parse_pair("demo"), list(demo.values())
        chain = BenchOptions(
            prompt_tokens=(MIDDLE, LONG),
            num_new=32,
            peers=("eager", "eager-last"),
            source=source,
            **common,
        )
        alone = BenchOptions(
            prompt_tokens=(SHORT, LONGEST),
            peers=("transformers", "genai", "llamacpp"),
            source=source,
            sweeps=("capacity",),
            **common,
        )
        # The Receiver's row first: the others find their facts in either.
        runs += [run_bench(paths, options, _say).as_json() for options in (alone, chain)]
    if full_size is not None:
        models = full_size_models or full_size.parent
        folders = [models / role for role in ("receiver", "sharer", "fuser")]
        source = explicit_pair(str(folders[0]), [str(folders[1])], [folders[2]])
        options = BenchOptions(
            prompt_tokens=(FULL_SIZE_TOKENS,), num_new=2, peers=("eager",), source=source, **common
        )
        runs.append(run_bench([full_size], options, _say).as_json())
        labels["full_size"] = _label(full_size)
    return Measured(runs, labels, {part: loss_of(path) for part, path in demo.items()})


def _label(path: Path) -> str:
    return path.resolve().name.removesuffix(".bundle")


def loss_of(bundle: Path) -> dict[str, float]:
    """What few bits cost a bundle, as its manifest says it: ``greedy_agreement`` (a share) and
    ``perplexity_ratio`` (to fp32); empty where it says nothing."""
    spec = read_manifest(bundle).loss
    if spec is None:
        return {}
    loss = spec.measured
    return {
        "greedy_agreement": loss.greedy_agreement,
        "perplexity_ratio": loss.perplexity_ratio,
    }


def _say(what: str) -> None:
    click.echo(what, err=True)


if __name__ == "__main__":
    main()
