"""``c2c-export pairs``: the published pairs that ``--pair`` knows by name."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table


@click.command(
    "pairs",
    epilog="""\b
Examples:
  c2c-export pairs
  c2c-export pairs --json""",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List the pairs whose Fusers are published (collection nics-efc/C2C_Fuser).

    `build --pair NAME` downloads both models and the Fuser from the hub. Without a hub, give three
    directories: --receiver, --sharer and --fuser.
    """
    from c2c_export.pair.published import FUSER_REPOSITORY, PUBLISHED

    rows = [
        {
            "name": pair.name,
            "receiver": pair.receiver,
            "sharer": pair.sharer,
            "fuser": f"{FUSER_REPOSITORY}/{pair.fuser_folder}",
            "sharer_kv_heads": pair.shape.sharer_heads,
            "sharer_head_dim": pair.shape.sharer_dim,
        }
        for pair in PUBLISHED.values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("--pair", "Receiver", "Sharer", "Sharer KV heads x dim")
    for row in rows:
        heads = f"{row['sharer_kv_heads']} x {row['sharer_head_dim']}"
        table.add_row(str(row["name"]), str(row["receiver"]), str(row["sharer"]), heads)
    Console().print(table)
