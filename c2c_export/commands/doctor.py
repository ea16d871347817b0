"""``c2c-export doctor``: what this machine can do, and what a bundle would do on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from c2c_export.doctor.doctor import MachineReport, examine_machine
from c2c_export.doctor.doctor_bundle import BundleReport, examine_bundle
from c2c_export.doctor.doctor_text import print_bundle, print_machine
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import BundleError


@click.command(
    "doctor",
    epilog="""\b
Examples:
  c2c-export doctor
  c2c-export doctor demo.bundle
  c2c-export doctor demo.bundle --quick --json | jq .bundle.run""",
)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--quick", is_flag=True, help="Do not read the contents of the bundle's files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def command(bundle: Path | None, quick: bool, as_json: bool) -> None:
    """Show what is installed, which backends build and run here, and what BUNDLE would do here.

    Loads no graph and needs no GPU. Exits with 3 if BUNDLE is damaged, else with 0: what is missing
    is shown with the command that brings it.
    """
    machine = examine_machine(bundle or Path())
    report = None
    if bundle is not None:
        hash_files = None if quick else _hash_with_a_bar
        report = examine_bundle(bundle, machine.machine, machine.available_bytes, hash_files)
    if as_json:
        click.echo(json.dumps(_json(machine, report)))
    else:
        console = Console(highlight=False)
        print_machine(console, machine)
        if report is not None:
            print_bundle(console, report)
    if report is not None and report.damage:
        raise BundleError(f"the bundle {bundle} is damaged:", report.damage)


def _hash_with_a_bar(bundle: Bundle) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), DownloadColumn())
    size = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading the bundle", total=size)
        bundle.check_hashes(lambda num_bytes: bar.advance(task, num_bytes))


def _json(machine: MachineReport, report: BundleReport | None) -> dict[str, Any]:
    data: dict[str, Any] = asdict(machine)
    data["bundle"] = None if report is None else _bundle_json(report)
    return data


def _bundle_json(report: BundleReport) -> dict[str, Any]:
    """Not the whole manifest, which ``inspect --json`` gives, but what it means here."""
    manifest, choice = report.manifest, report.choice
    data = {
        "path": report.path,
        "ok": not report.damage,
        "hashed": report.hashed,
        "damage": [asdict(problem) for problem in report.damage],
        "pair": None if manifest is None else manifest.pair.name,
        "precision": None if manifest is None else manifest.precision,
        "dialects": [] if manifest is None else sorted({g.dialect for g in manifest.graphs}),
        "engines": [
            {
                **{key: getattr(engine.spec, key) for key in _ENGINE_FIELDS},
                "runs": not engine.problems,
                "problems": [asdict(problem) for problem in engine.problems],
            }
            for engine in report.engines
        ],
        "weights_bytes": report.weights_bytes,
        "caches_bytes": report.caches_bytes,
        "advice": [asdict(problem) for problem in report.advice],
        "run": None,
    }
    if choice is not None and not report.damage:
        engines = choice.engines
        run: dict[str, Any] = {
            "device": choice.device,
            "backend": engines.backend if engines else "ort" if choice.device else None,
            "dialect": choice.ort_dialect,
            "gpu": asdict(engines.gpu) if engines else None,
            "problems": [asdict(problem) for problem in choice.problems],
        }
        data["run"] = run
    return data


_ENGINE_FIELDS = ("role", "path", "backend", "backend_version", "target", "platform", "precision")
