"""An evaluation from bundle and task to report: item by item, all modes of an item side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from c2c_export.eval.answering import Asker, check_modes, modes_of
from c2c_export.eval.items import Task
from c2c_export.eval.prompts import Scoring, choose_style
from c2c_export.eval.report import EvalReport, make_report
from c2c_export.eval.results_file import ResultsFile, RunKey
from c2c_runtime.answers.generation import GenerationOptions, Mode
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import InputError, Problem, UsageError
from c2c_runtime.machine.backend_choice import Wish
from c2c_runtime.progress import OnProgress
from c2c_runtime.text.text_to_text import TextToText

RESULTS_NAME = "results.jsonl"
_MAX_NAMED = 10  # items of one message


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate. ``modes`` empty: all that the bundle can. ``num_threads`` None: one a core.
    ``restart``: drop results that are there."""

    modes: tuple[Mode, ...] = ()
    scoring: Scoring = "generate"
    prompt_style: Literal["auto", "chat", "plain"] = "auto"
    max_new_tokens: int = 32
    text_to_text: TextToText = field(default_factory=TextToText)
    device: Wish = "auto"
    num_threads: int | None = None
    restart: bool = False
    command: str = ""

    def generation(self, mode: Mode) -> GenerationOptions:
        """How a mode answers: greedily."""
        return GenerationOptions(
            max_new_tokens=self.max_new_tokens, mode=mode, text_to_text=self.text_to_text
        )


def run_eval(
    bundle_path: Path,
    task: Task,
    directory: Path,
    options: EvalOptions,
    on_progress: OnProgress,
) -> EvalReport:
    """Ask what was not asked yet, and report on all of it.

    ``directory``: holds the results, made where it is missing. ``on_progress`` is told which share of
    the items is done, and in words how many. Whatever stops the run, a second call goes on after the last
    whole item. Raises ``InputError`` that names items which cannot be asked, before anything is run.
    """
    bundle = Bundle.open(bundle_path)
    modes = options.modes or modes_of(bundle, options.scoring)
    check_modes(modes, bundle, options.scoring)
    if options.scoring != "generate" and not all(item.is_choice for item in task.items):
        raise UsageError(
            f"--scoring {options.scoring} compares options, and some items of {task.name} have none",
            "leave --scoring out: short answers are generated",
        )
    with Session.open(
        bundle_path, device=options.device, num_threads=options.num_threads
    ) as session:
        style = choose_style(session, options.prompt_style)
        askers = {
            mode: Asker(session, style, options.scoring, options.generation(mode)) for mode in modes
        }
        _check_prompts(askers, task)
        key = RunKey(
            task=task.name,
            task_sha256=task.sha256,
            num_items=len(task.items),
            bundle=bundle_path.name,
            bundle_digest=bundle.manifest.digest,
            modes=modes,
            scoring=options.scoring,
            prompt_style=style,
            max_new_tokens=options.max_new_tokens,
            text_to_text=options.text_to_text if "t2t" in modes else None,
            device=options.device,
            num_threads=options.num_threads,
        )
        results = ResultsFile.open(directory / RESULTS_NAME, key, task, restart=options.restart)
        missing = [item for item in task.items if item.id not in results.answers]
        _tell(on_progress, results, task)
        if missing:
            for asker in askers.values():
                asker.ask(missing[0])  # for nothing: first calls are slower
            for item in missing:
                results.append(item.id, {mode: asker.ask(item) for mode, asker in askers.items()})
                _tell(on_progress, results, task)
    return make_report(task, key, results.answers, options.command)


def _tell(on_progress: OnProgress, results: ResultsFile, task: Task) -> None:
    num_done, num_items = len(results.answers), len(task.items)
    on_progress(num_done / num_items, f"{num_done} of {num_items} items")


def _check_prompts(askers: Mapping[Mode, Asker], task: Task) -> None:
    """Read every prompt before anything is run, so that no long run ends at a prompt that is too long.

    Raises ``InputError`` that names the items, each with the first mode that it does not fit.
    """
    problems = []
    for item in task.items:
        for mode, asker in askers.items():
            try:
                asker.require(item)
            except UsageError as error:
                problems.append(Problem(f"item {item.id}: {error.cause} (mode {mode})"))
                break
    if problems:
        named, more = problems[:_MAX_NAMED], len(problems) - _MAX_NAMED
        remedy = (
            "leave them out, or build the bundle with a larger --max-seq-len; a smaller --max-new-tokens, "
            "and in text-to-text --max-message-tokens, leaves more room. Nothing was run"
        )
        words = f"and {more} more items" if more > 0 else "these prompts cannot be asked"
        raise InputError(
            f"{len(problems)} of {len(task.items)} items do not fit into the bundle:",
            [*named, Problem(words, remedy)],
        )
