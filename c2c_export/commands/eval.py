"""``c2c-export eval``: does a bundle answer better with its Sharers, and what does it cost?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from c2c_export.commands.options import device_option, mode_choice, text_to_text_options
from c2c_export.eval.task_file import SCHEMA
from c2c_export.interrupts import code_of_interrupt
from c2c_export.system_errors import naming_system_errors
from c2c_runtime.progress import OnProgress
from c2c_runtime.text.text_to_text import TextToText

_EPILOG = "\b\nTask files:\n" + "\n".join(f"  {line}" for line in SCHEMA.splitlines())


@click.command(
    "eval",
    epilog=f"""\b
Examples:
  c2c-export eval demo.bundle --task questions.jsonl
  c2c-export eval demo.bundle --task arc-challenge --limit 200 --seed 0
  c2c-export eval demo.bundle --task mmlu-redux:anatomy --scoring letter --mode c2c --mode receiver

{_EPILOG}""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--task",
    "task_text",
    required=True,
    help="A JSONL file, or mmlu-redux, arc-challenge, openbookqa or c-eval from the hub; a subject after a colon.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=mode_choice,
    help="Repeat for several. Default: all that the bundle can.",
)
@click.option(
    "--scoring",
    type=click.Choice(["generate", "letter", "text"]),
    default="generate",
    show_default=True,
    help="How choices are answered: in words, or by the likelihood of each option's letter or text.",
)
@click.option(
    "--prompt-style",
    type=click.Choice(["auto", "chat", "plain"]),
    default="auto",
    show_default=True,
    help="auto: a chat where every model of the bundle has a chat template.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask as many items: the first ones.")
@click.option("--seed", type=int, help="With --limit: items drawn at random.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, show_default=True)
@text_to_text_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of results and reports. Default: TASK-BUNDLE.eval here.",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Go on with the results that are there, or drop them.",
)
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="Of a CPU. Default: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    bundle: Path,
    task_text: str,
    modes: tuple[Any, ...],
    scoring: Any,
    prompt_style: Any,
    limit: int | None,
    seed: int | None,
    max_new_tokens: int,
    max_message_tokens: int,
    ask: str,
    tell: str,
    output: Path | None,
    resume: bool,
    device: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE the items of a task in several modes, and compare accuracy and time.

    Every answer is on the disk before the next item is asked; the same command goes on where it was
    stopped. The folder then holds results.jsonl, report.json, report.md and report.html.
    """
    from c2c_export.eval.evaluate import EvalOptions, run_eval
    from c2c_export.eval.load_task import load_task
    from c2c_export.eval.report_html import html_page
    from c2c_export.eval.report_words import markdown, print_report

    task = load_task(task_text, lambda what: click.echo(f"loading {what}", err=True))
    task = task.sampled(limit, seed)
    directory = output or Path(f"{task.name}-{bundle.name.removesuffix('.bundle')}.eval")
    options = EvalOptions(
        modes=tuple(dict.fromkeys(modes)),
        scoring=scoring,
        prompt_style=prompt_style,
        max_new_tokens=max_new_tokens,
        text_to_text=TextToText(ask, tell, max_message_tokens),
        device=device,
        num_threads=threads,
        restart=not resume,
        command=shlex.join(["c2c-export", *sys.argv[1:]]),
    )
    with naming_system_errors(output=directory):
        with _progress() as on_progress:
            report = run_eval(bundle, task, directory, options, on_progress)
        whole = json.dumps(report.as_json()) + "\n"
        (directory / "report.json").write_text(whole, encoding="utf-8")
        (directory / "report.md").write_text(markdown(report), encoding="utf-8")
        (directory / "report.html").write_text(html_page(report), encoding="utf-8")
    click.echo(f"wrote {directory / 'report.html'}", err=True)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 170))


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar on stderr, or a line a tenth in a log; when stopped, a line that says how to go on."""
    console = Console(stderr=True)
    columns = (
        TextColumn("asking"),
        BarColumn(24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    done, so_far = 0.0, ""
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        row = bar.add_task("", total=1.0)

        def advance(fraction: float, doing: str) -> None:
            nonlocal done, so_far
            if not console.is_terminal and (not so_far or int(fraction * 10) != int(done * 10)):
                click.echo(doing, err=True)
            done, so_far = fraction, doing
            bar.update(row, completed=fraction, description=doing)

        try:
            yield advance
        except KeyboardInterrupt as error:
            bar.stop()
            where = f"after {so_far}" if so_far else "before the first item"
            click.echo(f"stopped {where}; the same command goes on from there", err=True)
            raise click.exceptions.Exit(code_of_interrupt(error)) from None
