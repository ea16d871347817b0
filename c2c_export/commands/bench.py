"""``c2c-export bench``: measure bundles, and peers in the same run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from c2c_export.commands.options import (
    device_option,
    pair_source,
    receiver_option,
    sharers_option,
)
from c2c_export.system_errors import naming_system_errors
from c2c_runtime.errors import UsageError


class _Counts(click.ParamType[tuple[int, ...]]):
    """``32,128,512``."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Parse; a bad count is a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(dict.fromkeys(int(item) for item in str(value).split(",")))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 2:
            self.fail(f"{value!r} is no list of numbers from 2 on, such as 32,128,512", param, ctx)
        return counts


@click.command(
    "bench",
    epilog="""\b
Examples:
  c2c-export bench demo.bundle
  c2c-export bench demo.bundle --pair demo --html bench.html --json > bench.json
  c2c-export bench demo.bundle --mode c2c,receiver,sharer,t2t
  c2c-export bench fp32.bundle int4.bundle --sweep prompt,capacity --prompt-tokens 128
  c2c-export bench pair.bundle --receiver R --sharer S --fuser F --peers eager,genai""",
)
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--pair", "pair_text", help="The checkpoints, as for build: peers need them.")
@receiver_option
@sharers_option
@click.option(
    "--fuser", "fusers", multiple=True, type=click.Path(path_type=Path), help="One a Sharer."
)
@click.option(
    "--peers",
    help="all-available, none, or some of eager,eager-last,transformers,genai,llamacpp. Default: "
    "all-available where the checkpoints are named, else none.",
)
@click.option(
    "--prompt-tokens", type=_Counts(), default="32,128,512", show_default=True, help="Lengths."
)
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    help="Some of c2c,prefills,receiver,sharer,t2t; repeatable. The last two need a bundle built --with-baselines. "
    "Default: c2c,prefills,receiver.",
)
@click.option(
    "--message-tokens",
    type=click.IntRange(min=1),
    help="Make the message of t2t so long. Default: as long as it comes, at most 256.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--sweep", "sweeps", help="Some of prompt,capacity,batch: vary one thing, keep the rest."
)
@click.option("--threads", type=click.IntRange(min=1), help="Of a CPU. Default: one a core.")
@device_option
@click.option(
    "--build-report",
    "build_reports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What `build --json` printed, for the time a bundle took.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with charts.")
@click.option("--json", "as_json", is_flag=True, help="Print every sample as one JSON object.")
def command(
    bundles: tuple[Path, ...],
    pair_text: str | None,
    receiver: str | None,
    sharers: tuple[str, ...],
    fusers: tuple[Path, ...],
    peers: str | None,
    prompt_tokens: tuple[int, ...],
    new_tokens: int,
    modes: tuple[str, ...],
    message_tokens: int | None,
    rounds: int,
    sweeps: str | None,
    threads: int | None,
    device: Any,
    build_reports: tuple[Path, ...],
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure BUNDLES side by side: time to the first token by stage, decode steps, memory, cold start.

    With the checkpoints (--pair, or --receiver, --sharer and --fuser) peers are measured in the same
    run, in turns with the bundles. Only ratios of one run say something about another machine.
    """
    from c2c_export.bench.measure import BenchOptions, run_bench
    from c2c_export.bench.peers import ALL, NONE, parse_peers
    from c2c_export.bench.report_html import html_page
    from c2c_export.bench.report_text import print_report

    source = None
    if pair_text is not None or receiver is not None or sharers or fusers:
        source = pair_source(pair_text, receiver, sharers, fusers, None)
    names = parse_peers(peers or (NONE if source is None else ALL))
    if names and source is None:
        raise UsageError(
            "peers run the checkpoints, and none were named",
            "give --pair, or --receiver, --sharer and --fuser, as for build",
        )
    if html is not None and not html.resolve().parent.is_dir():
        raise UsageError(f"there is no folder for {html}", "make it, or write somewhere else")
    options = BenchOptions(
        prompt_tokens=prompt_tokens,
        num_new=new_tokens,
        num_rounds=rounds,
        peers=names,
        source=source,
        sweeps=_sweep_names(sweeps),
        num_threads=threads,
        device=device,
        build_reports=build_reports,
        command=shlex.join(["c2c-export", *sys.argv[1:]]),
        modes=_modes(modes),
        message_tokens=message_tokens,
    )
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("start") as status:
            report = run_bench(bundles, options, status.update)
    else:
        report = run_bench(bundles, options, lambda what: click.echo(what, err=True))
    for peer in report.skipped_peers:
        console.print(f"left out {peer.name}: {peer.why}", markup=False)
    if html is not None:
        with naming_system_errors(output=html):
            html.write_text(html_page(report), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        wide = None if sys.stdout.isatty() else 170
        print_report(report, Console(width=wide))


def _modes(given: tuple[str, ...]) -> tuple[Any, ...]:
    from c2c_export.bench.contender import DEFAULT_MODES, MODES

    named = [name.strip() for text in given for name in text.split(",") if name.strip()]
    unknown = [name for name in named if name not in MODES]
    if unknown:
        raise UsageError(
            f"--mode {','.join(named)}: there is no mode {', '.join(unknown)}",
            f"give some of {','.join(MODES)}",
        )
    return tuple(mode for mode in MODES if mode in named) or DEFAULT_MODES


def _sweep_names(text: str | None) -> tuple[Any, ...]:
    from c2c_export.bench.sweeps import SWEEPS

    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    unknown = [name for name in names if name not in SWEEPS]
    if unknown:
        raise UsageError(
            f"--sweep {text}: there is no sweep {', '.join(unknown)}",
            f"give some of {','.join(SWEEPS)}; precisions and shares of closed gates are compared by "
            "naming several bundles",
        )
    return names
