"""Naming a pair: what ``--pair`` takes, and the pair that checkpoints make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from c2c_export.pair.demo import DEMO, demo_fuser, gemma3_gguf, smollm2_gguf
from c2c_export.pair.pair_file import read_pair_file
from c2c_export.pair.published import FUSER_REPOSITORY, PUBLISHED, PublishedPair
from c2c_export.reading.hub import download
from c2c_export.reading.model_source import ModelSource, resolve_model
from c2c_runtime.errors import PairError, Problem, UsageError

MultiSharer = Literal["sequential", "parallel"]


@dataclass(frozen=True)
class PairSource:
    """Where the parts of a pair lie on this machine. One Fuser a Sharer, in mask order."""

    receiver: ModelSource
    sharers: tuple[ModelSource, ...]
    fusers: tuple[Path, ...]
    name: str
    multi_sharer: MultiSharer = "sequential"


def parse_pair(
    text: str, fusers: Sequence[Path] = (), multi_sharer: MultiSharer | None = None
) -> PairSource:
    """What ``--pair`` takes: a published name, ``demo``, a YAML pair file, or RECEIVER+SHARER.

    Each model of RECEIVER+SHARER[+SHARER...] is a directory, a GGUF file or a hub id; ``fusers``
    (``--fuser``) are needed there, and replace the download of a published name. ``multi_sharer``
    wins over a pair file. Raises UsageError for what is not said, PairError for what is not there.
    """
    if text == DEMO:
        return explicit_pair(
            str(smollm2_gguf()),
            [str(gemma3_gguf())],
            list(fusers) or [demo_fuser()],
            name=DEMO,
            multi_sharer=multi_sharer or "sequential",
        )
    if text in PUBLISHED:
        return _published_pair(PUBLISHED[text], fusers)
    if Path(text).suffix in (".yaml", ".yml"):
        file = read_pair_file(Path(text))
        return explicit_pair(
            file.receiver,
            [entry.model for entry in file.sharers],
            list(fusers) or [Path(entry.fuser) for entry in file.sharers],
            name=file.name,
            multi_sharer=multi_sharer or file.multi_sharer,
        )
    receiver, *sharers = text.split("+")
    if not receiver or not sharers or not all(sharers):
        raise UsageError(
            f"--pair {text} names no pair",
            "write RECEIVER+SHARER, 'demo', a .yaml file, or one of the published "
            f"{', '.join(PUBLISHED)}; paths with a + in them go to --receiver and --sharer",
        )
    if not fusers:
        raise UsageError(
            f"--pair {text} names two models, but no Fuser",
            "add --fuser DIR; `c2c-export init-fuser` makes one with random weights; published "
            f"pairs that bring theirs are {', '.join(PUBLISHED)}",
        )
    return explicit_pair(receiver, sharers, fusers, multi_sharer=multi_sharer or "sequential")


def explicit_pair(
    receiver: str,
    sharers: Sequence[str],
    fusers: Sequence[Path],
    *,
    name: str = "",
    multi_sharer: MultiSharer = "sequential",
) -> PairSource:
    """The pair that ``--receiver``, ``--sharer`` and ``--fuser`` name. ``name``: else made up.

    Raises PairError that lists every part which is not there.
    """
    problems: list[Problem] = []
    models = [_resolve(text, problems) for text in (receiver, *sharers)]
    if len(sharers) != len(fusers):
        problems.append(
            Problem(
                f"{len(sharers)} Sharer(s), but {len(fusers)} Fuser(s)",
                "give one --fuser for each --sharer, in the same order",
            )
        )
    problems += [
        Problem(f"there is no Fuser folder {fuser}", "check the path")
        for fuser in fusers
        if not fuser.expanduser().is_dir()
    ]
    found = [model for model in models if model is not None]
    if problems or len(found) != len(models):
        raise PairError("the pair is incomplete", problems)
    return PairSource(
        found[0],
        tuple(found[1:]),
        tuple(fuser.expanduser().resolve() for fuser in fusers),
        name or "+".join(model.name for model in found),
        multi_sharer,
    )


def _published_pair(published: PublishedPair, fusers: Sequence[Path]) -> PairSource:
    instead = (
        "give the three directories instead: --receiver DIR "
        f"({published.receiver}) --sharer DIR ({published.sharer}) --fuser DIR "
        f"({published.fuser_folder} of {FUSER_REPOSITORY})"
    )
    if not fusers:
        folder = published.fuser_folder
        fusers = [download(FUSER_REPOSITORY, [f"{folder}/*"], instead) / folder]
    models = []
    for repository in (published.receiver, published.sharer):
        try:
            models.append(resolve_model(repository))
        except PairError as error:
            problems = [Problem(problem.cause, instead) for problem in error.problems]
            raise PairError(error.headline, problems) from error
    return PairSource(models[0], (models[1],), tuple(fusers), published.name)


def _resolve(text: str, problems: list[Problem]) -> ModelSource | None:
    try:
        return resolve_model(text)
    except PairError as error:
        problems += error.problems
        return None
