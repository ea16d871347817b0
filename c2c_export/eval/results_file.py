"""Results as they come: a JSONL file that a stopped run goes on from.

The first line says what was asked of what; every further line is an item with its answers in all
modes, on the disk before the next item is asked. A last line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from c2c_export.eval.answering import ModeAnswer
from c2c_export.eval.items import Task
from c2c_runtime.errors import InputError, UsageError
from c2c_runtime.text.text_to_text import TextToText

SCHEMA_VERSION = 1

Answers = Mapping[str, ModeAnswer]  # by mode
_ANSWERS = TypeAdapter(dict[str, ModeAnswer])
_AGAIN = "move the file away, or give --restart, which asks everything again"


@dataclass(frozen=True)
class RunKey:
    """What has to be the same for results to belong together.

    ``task_sha256``: of the items. ``bundle_digest``: of the manifest. ``text_to_text``: None where no
    mode asks for a message. ``num_threads``: None: one a core; threads and device are part of it, so
    that the times of one report are comparable.
    """

    task: str
    task_sha256: str
    num_items: int
    bundle: str
    bundle_digest: str
    modes: tuple[str, ...]
    scoring: str
    prompt_style: str
    max_new_tokens: int
    text_to_text: TextToText | None
    device: str
    num_threads: int | None

    def differences(self, header: Mapping[str, Any]) -> list[str]:
        """What a file's header says otherwise, in words. Names are for people and do not count."""
        mine = json.loads(json.dumps(asdict(self)))
        return [
            f"{name.replace('_', ' ')} was {header.get(name)!r}, now {value!r}"
            for name, value in mine.items()
            if name not in ("task", "bundle") and header.get(name) != value
        ]


@dataclass
class ResultsFile:
    """Answers by item id, in memory and on the disk."""

    path: Path
    answers: dict[str, Answers] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, key: RunKey, task: Task, *, restart: bool = False) -> ResultsFile:
        """Begin a file, or go on with one.

        ``restart``: whatever is there is dropped. Raises ``UsageError`` if the file belongs to
        another run, saying in what it differs, and ``InputError`` if a line inside it is broken.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [] if restart or not path.exists() else _whole_lines(path)
        if len(lines) < 2:  # nothing was answered
            path.write_bytes(_line({"schema_version": SCHEMA_VERSION, **asdict(key)}))
            return cls(path)
        header = _read(path, 1, lines[0])
        differences = key.differences(header)
        if header.get("schema_version") != SCHEMA_VERSION:
            differences.insert(0, f"format was {header.get('schema_version')!r}")
        if differences:
            raise UsageError(
                f"{path} holds the results of another run: {'; '.join(differences)}",
                "ask as before to go on with it, give another --output, or --restart to drop it",
            )
        found = cls(path)
        known = {item.id for item in task.items}
        for number, line in enumerate(lines[1:], start=2):
            item_id, answers = _item(path, number, line)
            if item_id not in known or item_id in found.answers or set(answers) != set(key.modes):
                cause = f"{path}, line {number}: item {item_id!r} is unknown, there twice, or not in every mode"
                raise InputError.of(cause, _AGAIN)
            found.answers[item_id] = answers
        # What was cut off makes room for whole lines.
        os.truncate(path, sum(len(line) + 1 for line in lines))
        return found

    def append(self, item_id: str, answers: Answers) -> None:
        """Keep the answers to one item; returns when they are on the disk."""
        plain = {mode: asdict(answer) for mode, answer in answers.items()}
        with self.path.open("ab") as file:
            file.write(_line({"id": item_id, "answers": plain}))
            file.flush()
            os.fsync(file.fileno())
        self.answers[item_id] = answers


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _whole_lines(path: Path) -> list[bytes]:
    """Lines that end: what stands after the last line feed was cut off."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", "give another --output"
        ) from error


def _read(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError.of(f"{path}, line {number}, is no JSON: {error}", _AGAIN) from error
    if not isinstance(data, dict):
        raise InputError.of(f"{path}, line {number}, is no JSON object", _AGAIN)
    return data


def _item(path: Path, number: int, line: bytes) -> tuple[str, Answers]:
    data = _read(path, number, line)
    try:
        return str(data["id"]), _ANSWERS.validate_python(data["answers"])
    except (KeyError, ValidationError) as error:
        raise InputError.of(f"{path}, line {number}, is no result of an item", _AGAIN) from error
