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

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from c2c_runtime.errors import PairError, Problem

_KEYS = ("receiver", "sharers", "multi_sharer", "name")
_SHARER_KEYS = ("model", "fuser")


@dataclass(frozen=True)
class SharerEntry:
    """One Sharer of a pair file: a model (path or hub id) and its Fuser's folder."""

    model: str
    fuser: Path


@dataclass(frozen=True)
class PairFile:
    """The content of a pair file. Local paths are absolute."""

    receiver: str
    sharers: tuple[SharerEntry, ...]
    multi_sharer: Literal["sequential", "parallel"]
    name: str


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
    problems: list[Problem] = []
    if not isinstance(content, dict):
        content = {}
        problems.append(Problem("it is no mapping", f"its keys are {', '.join(_KEYS)}"))
    problems += _unknown_keys(content, _KEYS, "")
    receiver = _text(content, "receiver", "", problems)
    sharers = tuple(_sharers(content.get("sharers"), path.parent, problems))
    multi_sharer = content.get("multi_sharer", "sequential")
    if multi_sharer not in ("sequential", "parallel"):
        problems.append(
            Problem(f"multi_sharer is {multi_sharer!r}", "it is sequential or parallel")
        )
    name = content.get("name", path.stem)
    if not isinstance(name, str):
        problems.append(Problem(f"name is {name!r}", "it must be a text"))
    if problems:
        raise PairError(f"the pair file {path} is wrong", problems)
    return PairFile(
        _relative_to(path.parent, receiver),
        sharers,
        cast(Literal["sequential", "parallel"], multi_sharer),
        name,
    )


def _sharers(entries: Any, folder: Path, problems: list[Problem]) -> list[SharerEntry]:
    if not isinstance(entries, list) or not entries:
        problems.append(Problem("sharers is no list", "write sharers: [{model: ..., fuser: ...}]"))
        return []
    sharers = []
    for number, entry in enumerate(entries, start=1):
        where = f"sharer {number}: "
        if not isinstance(entry, dict):
            problems.append(Problem(f"{where}it is no mapping", "write {model: ..., fuser: ...}"))
            continue
        problems += _unknown_keys(entry, _SHARER_KEYS, where)
        model = _text(entry, "model", where, problems)
        fuser = _text(entry, "fuser", where, problems)
        sharers.append(SharerEntry(_relative_to(folder, model), folder / Path(fuser).expanduser()))
    return sharers


def _unknown_keys(mapping: dict[Any, Any], known: tuple[str, ...], where: str) -> list[Problem]:
    return [
        Problem(f"{where}the key {key!r} is unknown", f"known keys are {', '.join(known)}")
        for key in mapping
        if key not in known
    ]


def _text(mapping: dict[Any, Any], key: str, where: str, problems: list[Problem]) -> str:
    value = mapping.get(key)
    if isinstance(value, str) and value:
        return value
    cause = f"{where}{key} is {value!r}" if key in mapping else f"{where}{key} is missing"
    problems.append(Problem(cause, f"write {key}: and a path or hub id"))
    return ""


def _relative_to(folder: Path, text: str) -> str:
    """The path inside ``folder`` where there is one; else the text as it is, such as a hub id."""
    local = folder / Path(text).expanduser()
    return str(local.resolve()) if local.exists() else text
