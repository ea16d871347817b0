"""``c2c-export cache``: what builds keep, so that the next ones redo only what changed."""

from __future__ import annotations

import json

import click

from c2c_export.building.stage_cache import StageCache


@click.group(
    "cache",
    epilog="""\b
Examples:
  c2c-export cache size
  c2c-export cache clear
The folder is the platform's for caches, or where C2C_CACHE_DIR says. It holds at most C2C_CACHE_GIB (20) GiB.""",
)
def command() -> None:
    """Stages of builds that were run before, kept by the hash of all that they read."""


@command.command("size")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def size(as_json: bool) -> None:
    """Print what the cache holds, and where."""
    cache = StageCache.of_user()
    num_bytes, num_entries = cache.size_bytes(), cache.num_entries()
    if as_json:
        fields = {"directory": str(cache.root), "size_bytes": num_bytes, "entries": num_entries}
        click.echo(json.dumps(fields | {"max_bytes": cache.max_bytes}))
        return
    click.echo(
        f"{num_bytes / 2**30:.2f} GiB in {num_entries} entries, of {cache.max_bytes / 2**30:.0f} GiB that "
        f"it may take: {cache.root}"
    )


@command.command("clear")
def clear() -> None:
    """Remove everything that was kept. Bundles stay as they are."""
    cache = StageCache.of_user()
    num_bytes = cache.size_bytes()
    cache.clear()
    click.echo(f"removed {num_bytes / 2**30:.2f} GiB from {cache.root}")
