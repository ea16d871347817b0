"""``python -m benchmarks.full_size RECEIVER SHARER -o DIR``: write a pair of full size."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from benchmarks.full_size.checkpoints import DTYPES, config_names, write_pair
from c2c_export.progress import Stages

_NAME = click.Choice(config_names(), case_sensitive=False)


@click.command(
    epilog="""\b
Example:
  python -m benchmarks.full_size QWEN3_0.6B QWEN2.5_0.5B -o models
  c2c-export build --receiver models/qwen3_0.6b --sharer models/qwen2.5_0.5b --fuser models/fuser -o b"""
)
@click.argument("receiver", type=_NAME)
@click.argument("sharer", type=_NAME)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, exists=False), required=True, help="New directory."
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bfloat16", show_default=True)
def main(receiver: str, sharer: str, output: Path, seed: int, dtype: str) -> None:
    """Write checkpoints of RECEIVER and SHARER and a Fuser between them, with random weights."""
    if output.exists():
        raise click.UsageError(f"{output} exists: give a new directory")
    paths = write_pair(
        receiver, sharer, output, seed=seed, dtype=dtype, stages=Stages(3, Console(stderr=True))
    )
    for role, path in paths.items():
        click.echo(f"{role}\t{path}")


if __name__ == "__main__":
    main()
