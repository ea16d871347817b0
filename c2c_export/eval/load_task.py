"""From what ``--task`` says to a task: a JSONL file, or a published data set by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from c2c_export.eval.hub_tasks import HUB_TASKS, HubTask
from c2c_export.eval.items import Item, Task
from c2c_export.eval.task_file import SCHEMA, read_task_file
from c2c_runtime.errors import InputError, UnavailableError, UsageError

_INSTEAD = f"give a JSONL file instead (--task FILE):\n{SCHEMA}"


def load_task(text: str, on_download: Callable[[str], None] = lambda what: None) -> Task:
    """The task that ``text`` names: a file's path, or ``arc-challenge``, or ``mmlu-redux:anatomy``.

    ``on_download`` is told what is being fetched. Raises ``UsageError`` if it names neither,
    ``InputError`` for a broken file, ``UnavailableError`` where a data set cannot be had.
    """
    name, _, subset = text.partition(":")
    if name in HUB_TASKS and not Path(text).exists():
        return _load_hub_task(HUB_TASKS[name], subset or None, on_download)
    if not Path(text).is_file():
        raise UsageError(
            f"--task {text} is neither a file nor a task that is known by name",
            f"give a JSONL file, or one of {', '.join(HUB_TASKS)}; a subject as in mmlu-redux:anatomy",
        )
    return read_task_file(Path(text))


def _load_hub_task(hub: HubTask, subset: str | None, on_download: Callable[[str], None]) -> Task:
    try:
        import datasets
    except ImportError as error:
        raise UnavailableError(
            f"{hub.name} comes from the Hugging Face hub, and the package datasets is not installed",
            f"pip install 'c2c-export[eval]', or {_INSTEAD}",
        ) from error
    subsets = [subset or hub.subset]
    items: list[Item] = []
    num_rows = 0
    try:
        if subsets == [None]:
            on_download(hub.dataset)
            subsets = list(datasets.get_dataset_config_names(hub.dataset))
        for number, name in enumerate(subsets, start=1):
            on_download(f"{hub.dataset}, {name} ({number} of {len(subsets)})")
            rows = datasets.load_dataset(hub.dataset, name, split=hub.split)
            num_rows += len(rows)
            items += _items(hub, rows, str(name))
    except _BrokenRowError as error:
        raise InputError.of(
            f"{hub.dataset} holds what was not expected: {error}", _INSTEAD
        ) from error
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnavailableError(
            f"{hub.dataset} could not be had from the hub or its cache: {first_line}", _INSTEAD
        ) from error
    if not items:
        raise InputError.of(f"{hub.dataset} holds no item with an answer", _INSTEAD)
    source = f"{hub.dataset}, split {hub.split}" + (f", {subset}" if subset else "")
    name = f"{hub.name}-{subset}" if subset else hub.name
    return Task(name, source, tuple(items), num_rows - len(items), hub.why_skipped)


class _BrokenRowError(Exception):
    """A row without the columns that its adapter reads."""


def _items(hub: HubTask, rows: Any, subset: str) -> list[Item]:
    items = []
    for place, row in enumerate(rows):
        try:
            item = hub.adapt(row, place, subset)
        except (KeyError, TypeError, ValueError) as error:
            raise _BrokenRowError(
                f"{subset}, row {place}: {type(error).__name__} {error}"
            ) from error
        if item is not None:
            items.append(item)
    return items
