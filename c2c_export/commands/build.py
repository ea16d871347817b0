"""``c2c-export build``: compile a pair into a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from c2c_export.building.build_options import BuildOptions
from c2c_export.building.build_target import BACKENDS, ENGINE_DIALECTS, build_target
from c2c_export.building.bundle_writer import checked_target
from c2c_export.building.progress import Stages
from c2c_export.commands.build_engines import print_engines
from c2c_export.commands.loss_table import loss_table
from c2c_export.commands.options import gibibytes, pair_source, receiver_option, sharers_option
from c2c_export.pair.asked import AskedLimits
from c2c_export.system_errors import naming_system_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c2c_export.building.build_report import BuildReport, GraphReport


@click.command(
    "build",
    epilog="""\b
Examples:
  c2c-export build --pair demo -o demo.bundle
  c2c-export build --pair models/qwen3+models/qwen2.5 --fuser fusers/qwen3+qwen2.5 -o pair.bundle
  c2c-export build --receiver R --sharer S1 --fuser F1 --sharer S2 --fuser F2 -o two.bundle
  c2c-export build --pair demo --backend tensorrt-rtx --target sm86 --target sm89 -o rtx.bundle
  c2c-export build --pair demo --backend tensorrt --dialect tensorrt-scatter --no-engines -o jetson.bundle
  c2c-export build --pair pair.yaml --max-seq-len 4096 --force -o pair.bundle""",
)
@click.option(
    "--pair", "pair_text", help="RECEIVER+SHARER, a published name, a pair file (YAML), or demo."
)
@receiver_option
@sharers_option
@click.option(
    "--fuser",
    "fusers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Fuser checkpoint; one a Sharer, in order.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to write."
)
@click.option(
    "--multi-sharer",
    type=click.Choice(["sequential", "parallel"]),
    help="How several Sharers combine. Default: the pair file's word, else sequential.",
)
@click.option(
    "--alignment",
    type=click.Choice(["auto", "none", "first", "longest"]),
    default="auto",
    show_default=True,
    help="Receiver token -> Sharer token where tokenizers differ.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="ort", show_default=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="cpu or cuda for --backend ort; smNN for engines, repeatable. Default: cpu; for engines the GPU that is here.",
)
@click.option(
    "--precision",
    help="fp32, fp16, bf16, int8, int4 or fp8, for each role if you like: fp16,receiver=int4. Default: fp32 for "
    "CPUs, fp16 for GPUs. See docs/precision.md.",
)
@click.option(
    "--dialect",
    type=click.Choice(ENGINE_DIALECTS),
    help="How graphs for engines say attention; default: what the installed TensorRT takes. tensorrt-scatter is for "
    "TensorRT before 10.15 (JetPack 6).",
)
@click.option(
    "--no-engines",
    is_flag=True,
    help="Write the graphs only; `c2c-export build-engines` makes engines of them on the device.",
)
@click.option(
    "--max-seq-len",
    type=int,
    help="Capacity of the KV caches in tokens. Default: 2048, or what the models allow.",
)
@click.option(
    "--max-prompt-len",
    type=int,
    help="Tokens of one prefill; longer prompts go in chunks. Default: 1024.",
)
@click.option("--max-batch-size", type=int, default=1, show_default=True)
@click.option(
    "--max-build-memory",
    type=gibibytes,
    help="Refuse to start if the build may need more than this many GiB.",
)
@click.option(
    "--with-baselines",
    is_flag=True,
    help="Add every whole Sharer, so that it can answer by itself (run --mode sharer) or by message (t2t). C2C costs "
    "the same; the bundle grows.",
)
@click.option(
    "--no-cache",
    is_flag=True,
    help="Run every stage, and keep none for the next build; see `c2c-export cache`.",
)
@click.option("--no-verify", is_flag=True, help="Write the bundle without checking it.")
@click.option("--force", is_flag=True, help="Replace the bundle at the output.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    pair_text: str | None,
    receiver: str | None,
    sharers: tuple[str, ...],
    fusers: tuple[Path, ...],
    output: Path,
    multi_sharer: Any,
    alignment: Any,
    backend: Any,
    targets: tuple[str, ...],
    precision: Any,
    dialect: Any,
    no_engines: bool,
    max_seq_len: int | None,
    max_prompt_len: int | None,
    max_batch_size: int,
    max_build_memory: float | None,
    with_baselines: bool,
    no_cache: bool,
    no_verify: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a Receiver, its Sharers and their Fusers into a bundle.

    The pair is checked before anything is traced, and the result is compared with eager PyTorch
    before it gets its name.
    """
    target = build_target(
        backend, targets, precision=precision, dialect=dialect, with_engines=not no_engines
    )
    options = BuildOptions(
        target=target,
        alignment=alignment,
        limits=AskedLimits(max_seq_len, max_prompt_len, max_batch_size),
        max_build_memory_bytes=None if max_build_memory is None else int(max_build_memory * 2**30),
        verify=not no_verify,
        force=force,
        with_baselines=with_baselines,
        use_cache=not no_cache,
    )
    # What can be refused is refused before PyTorch is loaded, which takes seconds.
    with naming_system_errors(output=output):
        checked_target(output, force=force)
    source = pair_source(pair_text, receiver, sharers, fusers, multi_sharer)
    from c2c_export.building.build import build_bundle

    console = Console(stderr=True)
    report = build_bundle(source, output, options, Stages(console=console))
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        console.print(_report_table(report))
        if report.loss is not None:
            console.print(loss_table(report.loss))
        if report.engines:
            print_engines(console, report.engines)
        click.echo(f"{report.bundle}")


def graph_table(graphs: Sequence[GraphReport]) -> Table:
    """A row for every graph: what it was, what it is, and why."""
    table = Table("graph", "parameters", "multiply-adds a token", "nodes", "why")
    for row in graphs:
        after = f"{row.operations / 1e6:,.1f} M"
        if row.head_operations:
            after += f", {row.head_operations / 1e6:,.1f} M a call"
        table.add_row(
            row.role,
            f"{row.num_parameters_before / 1e6:,.1f} M -> {row.num_parameters / 1e6:,.1f} M",
            f"{row.operations_before / 1e6:,.1f} M -> {after}",
            f"{row.num_nodes:,}",
            row.why,
        )
    return table


def _report_table(report: BuildReport) -> Table:
    table = graph_table(report.graphs)
    peak = report.peak_memory_bytes
    table.caption = (
        f"{report.size_bytes / 2**20:.1f} MiB in {report.seconds:.0f} s; "
        + (f"peak memory {peak / 2**30:.1f} GiB; " if peak else "")
        + ("verified against eager PyTorch" if report.comparisons else "not verified")
    )
    return table
