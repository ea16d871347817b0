"""``c2c-export run``: answer a prompt with a bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from c2c_export.commands.options import device_option, mode_choice, text_to_text_options
from c2c_runtime.answers.generation import (
    DEFAULT_NEW_TOKENS,
    Answer,
    Generation,
    GenerationOptions,
)
from c2c_runtime.answers.sampling import SamplingOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.errors import UsageError
from c2c_runtime.text.text_to_text import TextToText


class _Ids(click.ParamType[list[int]]):
    """``5,6,7``."""

    name = "ids"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Parse; a bad id is a usage error."""
        try:
            return [int(item) for item in str(value).split(",") if item.strip()]
        except ValueError:
            self.fail(f"{value!r} is no list of token ids such as 5,6,7", param, ctx)


class _Sections(click.ParamType[list[tuple[int, int]]]):
    """``19:1,1:-1``: length and Sharer mask a section."""

    name = "length:mask,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[tuple[int, int]]:
        """Parse; a bad section is a usage error."""
        try:
            pairs = [item.split(":") for item in str(value).split(",")]
            return [(int(length), int(mask)) for length, mask in pairs]
        except ValueError:
            self.fail(f"{value!r} is no list of sections such as 19:1,1:-1", param, ctx)


@click.command(
    "run",
    epilog="""\b
Examples:
  c2c-export run demo.bundle "The capital of France is" --max-new-tokens 16
  c2c-export run demo.bundle --prompt-file question.txt --stop "Question:"
  c2c-export run demo.bundle --chat messages.json --mode receiver
  c2c-export run demo.bundle --chat messages.json --mode t2t --max-message-tokens 64
  c2c-export run demo.bundle --prompt-ids 5,6,7,8 --sections 3:1,1:-1 --json""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option(
    "--chat", type=click.Path(path_type=Path), help="JSON list of {role, content}; - reads stdin."
)
@click.option(
    "--prompt-file",
    type=click.Path(path_type=Path),
    help="A plain prompt as it stands; - reads stdin.",
)
@click.option("--prompt-ids", type=_Ids(), help="Receiver token ids, 5,6,7.")
@click.option(
    "--sections", type=_Sections(), help="Cut of --prompt-ids: length:mask, -1 is not fused."
)
@click.option(
    "--mode",
    type=mode_choice,
    default="c2c",
    show_default=True,
    help="c2c: the chain. receiver: the Receiver alone. sharer: the first Sharer alone. t2t: the Sharer writes a "
    "message, the Receiver answers with it. The last two need a bundle that was built --with-baselines.",
)
@click.option(
    "--max-new-tokens", type=int, help=f"Default: {DEFAULT_NEW_TOKENS}, or until the cache is full."
)
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End the answer before this text; may be given several times.",
)
@text_to_text_options
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--top-k", type=int, default=0, show_default=True, help="0 keeps all.")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("--ignore-eos", is_flag=True, help="Go on past EOS ids.")
@click.option("--thinking", is_flag=True, help="Let chat templates that can switch on thinking.")
@device_option
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads a graph; default: one a usable core."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    bundle: Path,
    prompt: str | None,
    chat: Path | None,
    prompt_file: Path | None,
    prompt_ids: list[int] | None,
    sections: list[tuple[int, int]] | None,
    mode: Any,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    max_message_tokens: int,
    ask: str,
    tell: str,
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    seed: int | None,
    ignore_eos: bool,
    thinking: bool,
    device: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Answer PROMPT (plain text, no chat template), a chat, or token ids.

    The answer streams to stdout; everything else goes to stderr.
    """
    options = GenerationOptions(
        max_new_tokens=DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens,
        mode=mode,
        ignore_eos=ignore_eos,
        sampling=SamplingOptions(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
        text_to_text=TextToText(ask, tell, max_message_tokens),
        stop=stop,
    )
    if sum(given is not None for given in (prompt, prompt_file, chat, prompt_ids)) != 1:
        raise UsageError(
            "the prompt is missing or given twice",
            "give one of PROMPT, --prompt-file, --chat, --prompt-ids",
        )
    if prompt_file is not None:
        prompt = _read_text(prompt_file)
    if sections is not None and prompt_ids is None:
        raise UsageError("--sections cuts token ids", "give them with --prompt-ids")
    with Session.open(bundle, device=device, num_threads=threads, preload=mode == "c2c") as session:
        if prompt_ids is not None:
            answer = session.answer(session.sections_of_ids(prompt_ids, sections), options)
        else:
            asked = read_messages(chat) if chat is not None else prompt or ""
            answer = session.ask(asked, options, enable_thinking=thinking)
        if as_json:
            click.echo(json.dumps(asdict(answer.finish())))
        else:
            _stream(answer)
        result = answer.finish() if answer.result is None else answer.result
    is_cut = result.finish_reason == "length" and len(result.token_ids) == DEFAULT_NEW_TOKENS
    if is_cut and max_new_tokens is None:
        said = f"ended after {DEFAULT_NEW_TOKENS} tokens, the default; --max-new-tokens allows more"
        click.echo(said, err=True)


def read_messages(path: Path) -> list[dict[str, str]]:
    """The messages of a JSON file: a list of {role, content}, or an object with such ``messages``."""
    try:
        data = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is no JSON: {error}", 'write [{"role": "user", "content": "..."}]'
        ) from error
    messages = data.get("messages") if isinstance(data, dict) else data
    well_formed = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not well_formed or not messages:
        raise UsageError(
            f"{path} holds no list of messages with a role and a content of text",
            'write [{"role": "user", "content": "..."}]',
        )
    return list(messages)


def _read_text(path: Path) -> str:
    """A file's text as it stands, or that of stdin."""
    try:
        if str(path) == "-":
            return _stdin()
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "give a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8") from error


def _stdin() -> str:
    if sys.stdin is None:
        raise UsageError("stdin is closed, so nothing can be read from -", "give a file")
    return sys.stdin.read()


def _stream(answer: Answer) -> None:
    for piece in answer:
        click.echo(piece.text, nl=False)
        sys.stdout.flush()
    result = answer.result
    if result is None:
        return
    if result.text is None:
        click.echo(",".join(map(str, result.token_ids)), nl=False)
    click.echo()
    click.echo(_summary(result), err=True)


def _summary(result: Generation) -> str:
    times = result.timings
    each = times.decode_s / times.decode_steps * 1e3 if times.decode_steps else 0.0
    message = ""
    if result.message is not None:
        message = f"message {times.message_s:.2f} ({result.message_tokens} tokens) + "
    return (
        f"[{result.mode}: {result.prompt_tokens} tokens in, {len(result.token_ids)} out "
        f"({result.finish_reason}); first token {times.first_token_s:.2f} s = {message}Receiver prefill "
        f"{times.receiver_prefill_s:.2f} + Sharer prefill {times.sharer_prefill_s:.2f} + fuse "
        f"{times.fuse_s:.2f}; {each:.1f} ms a token]"
    )
