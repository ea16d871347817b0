"""``python -m benchmarks.full_size RECEIVER+SHARER DIR``: write a pair of full size."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from benchmarks.full_size.checkpoints import DTYPES, config_names, write_pair
from c2c_export.building.progress import Stages


@click.command(
    epilog="""\b
Example:
  python -m benchmarks.full_size qwen3_0.6b+qwen2.5_0.5b models
  c2c-export build --receiver models/receiver --sharer models/sharer --fuser models/fuser -o b"""
)
@click.argument("pair", metavar="RECEIVER+SHARER")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bfloat16", show_default=True)
def main(pair: str, directory: Path, seed: int, dtype: str) -> None:
    """Write checkpoints of RECEIVER and SHARER and a Fuser between them, with random weights."""
    receiver, _, sharer = pair.partition("+")
    unknown = [name for name in (receiver, sharer) if name not in config_names()]
    if unknown:
        raise click.UsageError(
            f"no config is named {unknown[0]!r}: write two of {', '.join(config_names())}, joined by +"
        )
    if directory.exists():
        raise click.UsageError(f"{directory} exists: give a new directory")
    paths = write_pair(
        receiver, sharer, directory, seed=seed, dtype=dtype, stages=Stages(3, Console(stderr=True))
    )
    for role, path in paths.items():
        click.echo(f"{role}\t{path}")


if __name__ == "__main__":
    main()
