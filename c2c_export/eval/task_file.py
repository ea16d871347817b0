"""Tasks from JSONL files: one item a line, and every line that is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from c2c_export.eval.items import MAX_CHOICES, Example, Item, Task
from c2c_runtime.errors import InputError, Problem, UsageError

SCHEMA = """\
One JSON object a line; empty lines are skipped.
  question  text; may be left out beside prompt or messages
  choices   list of 2 to 26 texts: multiple choice; left out: a short answer
  answer    with choices: the right one's letter ("B") or number from 0 (1);
            else the accepted text, or a list of accepted texts
  id        text, different in every line; default: the line's number
  group     text, such as a subject, which is reported by itself
  system    text of a system message
  examples  list of {question, choices, answer}, shown before the question
  prompt    plain text that is asked as it is, without a chat template
  messages  list of {role, content} that is asked as it is, as a chat
  labels    what prompt or messages call the choices, such as ["1", "2"]; default: letters
Example: {"question": "Which is a metal?", "choices": ["Iron", "Wood"], "answer": "A"}"""

_REMEDY = "mend the lines; `c2c-export eval --help` shows what they hold. Nothing was run"

Text = Annotated[StrictStr, Field(pattern=r"\S")]
Choices = Annotated[list[Text], Field(min_length=2, max_length=MAX_CHOICES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Example(_Strict):
    question: Text
    choices: Choices | None = None
    answer: Text | StrictInt


class _Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: Text


class _Line(_Strict):
    question: Text | None = None
    choices: Choices | None = None
    answer: Text | StrictInt | Annotated[list[Text], Field(min_length=1)]
    id: Text | StrictInt | None = None
    group: Text | None = None
    system: Text | None = None
    examples: list[_Example] = []
    prompt: Text | None = None
    messages: Annotated[list[_Message], Field(min_length=1)] | None = None
    labels: list[Text] | None = None


def read_task_file(path: Path) -> Task:
    """The task of a JSONL file.

    Raises ``UsageError`` if it cannot be read, and ``InputError`` that names every broken line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "give a JSONL file") from error
    except UnicodeDecodeError as error:
        raise InputError.of(
            f"{path} is not UTF-8 text: {error.reason}", "save it as UTF-8"
        ) from error
    items: dict[str, Item] = {}
    first_lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = _item(line, number)
            if item.id in items:
                raise _LineError(f"id {item.id!r} is that of line {first_lines[item.id]}, too")
        except _LineError as error:
            problems += (Problem(f"line {number}: {what}") for what in error.args)
            continue
        items[item.id] = item
        first_lines[item.id] = number
    if problems:
        broken = {problem.cause.split(":")[0] for problem in problems}
        written = [line for line in lines if line.strip()]
        problems.append(Problem(f"{len(broken)} of {len(written)} lines are broken", _REMEDY))
        raise InputError(f"{path} is no task:", problems)
    if not items:
        raise InputError.of(f"{path} holds no item", "write one item a line, see `eval --help`")
    return Task(path.stem, str(path), tuple(items.values()))


class _LineError(Exception):
    """What is wrong with a line, one argument a problem."""


def _item(line: str, number: int) -> Item:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise _LineError(f"no JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _LineError("JSON that is nested too deeply") from error
    if not isinstance(data, dict):
        raise _LineError(f"no JSON object but {type(data).__name__}")
    try:
        found = _Line.model_validate(data)
    except ValidationError as error:
        raise _LineError(*_words_of(error)) from error
    problems = list(_contradictions(found))
    if problems:
        raise _LineError(*problems)
    choices = tuple(found.choices or ())
    labels = tuple(found.labels or ())
    answer: int | None = None
    accepted: tuple[str, ...] = ()
    if choices:
        answer = _index(found.answer, choices, labels)
    else:
        accepted = tuple(found.answer) if isinstance(found.answer, list) else (str(found.answer),)
    messages = tuple((message.role, message.content) for message in found.messages or ())
    return Item(
        id=str(number if found.id is None else found.id),
        question=found.question or found.prompt or messages[-1][1],
        choices=choices,
        answer=answer,
        accepted=accepted,
        labels=labels,
        system=found.system,
        examples=tuple(_example(example) for example in found.examples),
        prompt=found.prompt,
        messages=messages,
        group=found.group,
    )


def _contradictions(line: _Line) -> list[str]:
    """What each field may hold, but not together."""
    problems = []
    own = [name for name in ("prompt", "messages") if getattr(line, name) is not None]
    if not own and line.question is None:
        problems.append("question is missing, and neither prompt nor messages is there")
    if len(own) > 1:
        problems.append("prompt and messages: give one of them")
    if own and (line.system is not None or line.examples):
        problems.append(f"system and examples belong into {own[0]}, which is asked as it is")
    choices, labels = tuple(line.choices or ()), tuple(line.labels or ())
    if labels and not own:
        problems.append("labels name choices in prompt or messages, and neither is there")
    if labels and (len(labels) != len(choices) or len(set(labels)) != len(labels)):
        problems.append(f"{len(choices)} choices need {len(choices)} different labels")
    elif choices and _index(line.answer, choices, labels) is None:
        problems.append(_no_choice(line.answer, choices))
    for place, example in enumerate(line.examples, start=1):
        texts = tuple(example.choices or ())
        if texts and _index(example.answer, texts, ()) is None:
            problems.append(f"example {place}: {_no_choice(example.answer, texts)}")
    return problems


def _no_choice(answer: Any, choices: tuple[str, ...]) -> str:
    return f"answer {answer!r} is no letter or number (from 0) of {len(choices)} choices"


def _index(answer: Any, choices: tuple[str, ...], labels: tuple[str, ...]) -> int | None:
    """Which choice an answer names: by number from 0, or by its label. None: none of them."""
    if isinstance(answer, int):
        return answer if 0 <= answer < len(choices) else None
    known = Item("", "", choices, labels=labels).option_labels
    return (
        known.index(answer.strip()) if isinstance(answer, str) and answer.strip() in known else None
    )


def _example(example: _Example) -> Example:
    choices = tuple(example.choices or ())
    answer = str(example.answer)
    if choices:
        answer = Item("", "", choices).option_labels[_index(example.answer, choices, ()) or 0]
    return Example(example.question, choices, answer)


def _words_of(error: ValidationError) -> list[str]:
    """Pydantic's findings, one a field: of a union of types, all of them in one."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False):
        field, *inside = problem["loc"]
        place = str(field)
        if inside and isinstance(inside[0], int):
            place = f"{field} {inside[0] + 1}"
        if field in _NESTED and len(inside) > 1:
            place = f"{place}, {inside[1]}"
        found.setdefault(place, []).append(_words(problem["type"], problem["msg"]))
    return [f"{place}: {' or '.join(dict.fromkeys(words))}" for place, words in found.items()]


_NESTED = ("examples", "messages")
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no field that is known here",
    "string_pattern_mismatch": "is empty",
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "list_type": "should be a list",
}


def _words(kind: str, message: str) -> str:
    return _WORDS.get(kind, message[:1].lower() + message[1:])
