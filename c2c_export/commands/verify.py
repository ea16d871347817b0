"""``c2c-export verify``: repeat a bundle's golden cases on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from c2c_export.commands.loss_table import loss_table
from c2c_export.commands.options import device_option
from c2c_runtime.answers.session import Session
from c2c_runtime.checks.loss import check_loss, loss_as_json, measure_loss
from c2c_runtime.checks.verification import Comparison, verify
from c2c_runtime.errors import VerificationError


@click.command(
    "verify",
    epilog="""\b
Examples:
  c2c-export verify demo.bundle
  c2c-export verify demo.bundle --device cpu --json""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(bundle: Path, device: Any, as_json: bool) -> None:
    """Compare what the graphs of BUNDLE compute here with what eager PyTorch computed at build time.

    Where the Receiver's weights are in few bits, measure what that loses, too.
    Needs no PyTorch. Exits with 4 if anything is outside its tolerance.
    """
    with Session.open(bundle, device=device) as session:
        comparisons = list(verify(session))
        loss, spec = None, session.bundle.manifest.loss
        if spec is not None:
            loss = measure_loss(session, session.bundle.path_of(spec.path))
            comparisons += check_loss(loss, spec)
    failed = [comparison for comparison in comparisons if not comparison.ok]
    if as_json:
        rows = [asdict(comparison) | {"ok": comparison.ok} for comparison in comparisons]
        found = {"ok": not failed, "comparisons": rows, "loss": loss and loss_as_json(loss)}
        click.echo(json.dumps(found))
    else:
        console = Console()
        console.print(comparison_table(comparisons))
        if loss is not None:
            console.print(loss_table(loss))
    if failed:
        raise VerificationError(
            f"{len(failed)} of {len(comparisons)} comparisons of {bundle} are outside tolerance",
            "build the bundle again on this machine; if it stays, report it with `verify --json`",
        )


def comparison_table(comparisons: list[Comparison]) -> Table:
    """What was compared, how far apart it was, and whether that is within tolerance."""
    table = Table("compared", "max abs", "max rel", "held to", "")
    for item in comparisons:
        verdict = "[green]ok[/]" if item.ok else "[red]FAILED[/]"
        cells = (f"{number:.2g}" for number in (item.max_abs, item.max_rel))
        table.add_row(item.name, *cells, item.bound, verdict)
    return table
