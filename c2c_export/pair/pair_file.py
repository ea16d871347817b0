"""Pair files: a pair written down as YAML, paths relative to the file.

```yaml
name: my-pair            # optional
receiver: models/small
sharers:
  - {model: models/large, fuser: fusers/small+large}
multi_sharer: sequential # optional; or parallel
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from c2c_runtime.errors import PairError, Problem

_KNOWN = ConfigDict(extra="forbid")
_Text = Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True, config=_KNOWN)
class SharerEntry:
    """One Sharer of a pair file: a model (path or hub id) and its Fuser's folder."""

    model: _Text
    fuser: _Text


@dataclass(frozen=True, config=_KNOWN)
class PairFile:
    """The content of a pair file. Local paths are absolute. ``name`` left out: the file's own."""

    receiver: _Text
    sharers: Annotated[tuple[SharerEntry, ...], Field(min_length=1)]
    multi_sharer: Literal["sequential", "parallel"] = "sequential"
    name: str = ""


_PAIR_FILE = TypeAdapter(PairFile)
# What each key takes, for remedies; the last part of a place in the file.
_TAKES = {
    "receiver": "write receiver: and a path or hub id",
    "model": "write model: and a path or hub id",
    "fuser": "write fuser: and the Fuser's folder",
    "sharers": "write sharers: [{model: ..., fuser: ...}]",
    "multi_sharer": "it is sequential or parallel",
    "name": "write name: and some text, or leave it out",
}
_SHARER_KEYS = ("model", "fuser")
_KEYS = ("receiver", "sharers", "multi_sharer", "name")


def read_pair_file(path: Path) -> PairFile:
    """Read a pair file. Raises PairError with everything that is wrong in it."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        cause = f"the pair file {path} cannot be read: {error.strerror}"
        raise PairError.of(cause, "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        cause = f"the pair file {path} is no YAML: {detail}"
        raise PairError.of(cause, "correct it") from error
    try:
        written = _PAIR_FILE.validate_python(content)
    except ValidationError as error:
        problems = [
            _problem(found["loc"], found["type"], found["input"])
            for found in error.errors()
            if found["type"] != "too_short" or not found["input"]  # only sound entries are counted
        ]
        raise PairError(f"the pair file {path} is wrong", problems) from error
    folder = path.parent
    sharers = tuple(
        SharerEntry(_relative_to(folder, entry.model), str(folder / Path(entry.fuser).expanduser()))
        for entry in written.sharers
    )
    return replace(
        written,
        receiver=_relative_to(folder, written.receiver),
        sharers=sharers,
        name=written.name or path.stem,
    )


def _problem(place: Sequence[int | str], kind: str, value: Any) -> Problem:
    """What pydantic found at a place of the file: ("sharers", 0, "fuser") is Sharer 1's Fuser."""
    is_inside = len(place) > 1
    where = f"sharer {int(place[1]) + 1}: " if is_inside else ""
    known = _SHARER_KEYS if is_inside else _KEYS
    key = str(place[-1]) if place else ""
    if kind in ("unexpected_keyword_argument", "invalid_keyword_argument", "invalid_key"):
        near = get_close_matches(key, known, n=1)
        meant = f"write {near[0]}; " if near else ""
        return Problem(
            f"{where}the key {place[-1]!r} is unknown", f"{meant}known keys are {', '.join(known)}"
        )
    if key not in known:  # the file itself, or an entry of the list
        example = (
            "write {model: ..., fuser: ...}" if is_inside else f"its keys are {', '.join(known)}"
        )
        return Problem(f"{where}it is no mapping", example)
    if kind in ("missing", "missing_argument"):
        cause = "is missing"
    elif key == "sharers":
        cause = "names no Sharer" if kind == "too_short" else "is no list"
    else:
        cause = f"is {value!r}"
    return Problem(f"{where}{key} {cause}", _TAKES[key])


def _relative_to(folder: Path, text: str) -> str:
    """The path inside ``folder`` where there is one; else the text as it is, such as a hub id."""
    local = folder / Path(text).expanduser()
    return str(local.resolve()) if local.exists() else text
