"""``c2c-export init-fuser``: write a fuser checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from c2c_export.commands.options import FiniteRange
from c2c_export.system_errors import naming_system_errors


@click.command(
    "init-fuser",
    epilog="""\b
Examples:
  c2c-export init-fuser --receiver models/qwen3 --sharer models/qwen2.5 -o fuser
  c2c-export init-fuser --receiver R --sharer S --hidden-dim 256 --open-share 0.5 --seed 1 -o fuser""",
)
@click.option("--receiver", required=True, help="Directory, hub id or GGUF file of the Receiver.")
@click.option("--sharer", required=True, help="The same for the Sharer.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Directory to write."
)
@click.option("--hidden-dim", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--intermediate-dim", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--num-layers", type=click.IntRange(min=3), default=3, show_default=True)
@click.option(
    "--mapping",
    type=click.Choice(["last_aligned", "k_nearest"]),
    default="last_aligned",
    show_default=True,
)
@click.option(
    "--open-share",
    type=FiniteRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of gates that are open.",
)
@click.option(
    "--scale",
    type=FiniteRange(),
    help="Size of what is added to the Receiver's cache. Default: small enough to keep its text coherent.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
)
@click.option("--force", is_flag=True, help="Replace a checkpoint at the output.")
def command(
    receiver: str, sharer: str, output: Path, force: bool, scale: float | None, **options: Any
) -> None:
    """Write a fuser checkpoint in the published layout with random weights: for trying and
    benchmarking a pair whose fuser is not trained yet."""
    from c2c_export.fusers.init_fuser import init_fuser
    from c2c_export.reading.checkpoints import model_dims, read_config
    from c2c_export.reading.model_source import resolve_model

    sources = [resolve_model(text) for text in (receiver, sharer)]
    receiver_dims, sharer_dims = (model_dims(read_config(source), source) for source in sources)
    if scale is not None:
        options["scale"] = scale
    with naming_system_errors(output=output):
        directory = init_fuser(receiver_dims, sharer_dims, output, force=force, **options)
    click.echo(str(directory))
