"""``c2c-export inspect``: show what a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from c2c_export.commands.loss_table import loss_table
from c2c_export.reports.words import describe_model
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import MANIFEST, Manifest


@click.command(
    "inspect",
    epilog="""\b
Examples:
  c2c-export inspect demo.bundle
  c2c-export inspect demo.bundle --json | jq .pair""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: Path, as_json: bool) -> None:
    """Show the pair, the layer map, limits, graphs and files of BUNDLE. Loads no graph."""
    manifest = Bundle.open(bundle).manifest
    if as_json:
        click.echo(MANIFEST.dump_json(manifest, indent=1).decode())
        return
    console = Console()
    console.print(_overview(manifest))
    console.print(_graphs(manifest))
    if manifest.loss is not None:
        console.print(loss_table(manifest.loss.measured))
    if manifest.engines:
        console.print(_engines(manifest))
    for number, sharer in enumerate(manifest.pair.sharers, start=1):
        table = Table(
            "Receiver layer", "Sharer layer", "key gate", "value gate", title=f"Sharer {number}"
        )
        for link in sharer.links:
            gates = (
                "open" if is_open else "closed" for is_open in (link.key_gate, link.value_gate)
            )
            table.add_row(str(link.receiver_layer), str(link.sharer_layer), *gates)
        console.print(table)


def _overview(manifest: Manifest) -> Table:
    pair, limits = manifest.pair, manifest.limits
    table = Table(show_header=False, title=pair.name)
    table.add_row("Receiver", describe_model(pair.receiver))
    for number, sharer in enumerate(pair.sharers, start=1):
        table.add_row(f"Sharer {number}", describe_model(sharer.dims))
        table.add_row("", f"{sharer.num_cached_layers} layers run, alignment {sharer.alignment}")
    if len(pair.sharers) > 1:
        table.add_row("Sharers combine", pair.multi_sharer)
    table.add_row("precision", manifest.precision)
    table.add_row(
        "limits",
        f"{limits.max_seq_len} tokens, {limits.max_prompt_len} a prefill, batch {limits.max_batch_size}",
    )
    table.add_row("EOS ids", ", ".join(map(str, manifest.eos_ids)) or "none")
    table.add_row(
        "tokenizers", ", ".join(manifest.tokenizers) or "none: token ids in, token ids out"
    )
    if manifest.baselines:
        alone = ", ".join(
            f"Sharer {spec.sharer} (EOS ids {', '.join(map(str, spec.eos_ids)) or 'none'})"
            for spec in manifest.baselines
        )
        table.add_row("answer alone, too", f"{alone}: modes sharer and t2t")
    size = sum(entry.size_bytes for entry in manifest.files.values())
    table.add_row("files", f"{len(manifest.files)}, {size / 2**20:.1f} MiB")
    table.add_row("built", f"{manifest.created_at} with {_versions(manifest.tools)}")
    return table


def _graphs(manifest: Manifest) -> Table:
    table = Table(
        "graph", "dialect", "parameters", "inputs", "outputs", "weights MiB", title="Graphs"
    )
    for graph in (*manifest.graphs, *(spec.graph for spec in manifest.baselines)):
        weights = manifest.files.get(f"{graph.path}.data")
        table.add_row(
            graph.role,
            graph.dialect,
            f"{graph.num_parameters:,}",
            str(len(graph.inputs)),
            str(len(graph.outputs)),
            f"{weights.size_bytes / 2**20:.1f}" if weights else "0",
        )
    return table


def _engines(manifest: Manifest) -> Table:
    table = Table("engine", "backend", "target", "platform", "profiles", "MiB", title="Engines")
    for engine in manifest.engines:
        table.add_row(
            engine.role,
            f"{engine.backend} {engine.backend_version}",
            engine.target,
            engine.platform,
            ", ".join(profile.name for profile in engine.profiles),
            f"{manifest.files[engine.path].size_bytes / 2**20:.1f}",
        )
    return table


def _versions(tools: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())
