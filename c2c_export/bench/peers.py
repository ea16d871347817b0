"""The peers by name, each made only if it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from c2c_export.bench.contender import Contender
from c2c_export.bench.peer import PeerSetup
from c2c_runtime.errors import C2CError, UsageError

ALL, NONE = "all-available", "none"


@dataclass(frozen=True)
class SkippedPeer:
    """A peer that was asked for and is not here. ``why`` names the remedy too."""

    name: str
    why: str


def _eager(setup: PeerSetup) -> list[Contender]:
    from c2c_export.bench.peer_eager import EagerChain

    return [EagerChain(setup, all_logits=True)]


def _eager_last(setup: PeerSetup) -> list[Contender]:
    from c2c_export.bench.peer_eager import EagerChain

    return [EagerChain(setup, all_logits=False)]


def _transformers(setup: PeerSetup) -> list[Contender]:
    from c2c_export.bench.peer_eager import TransformersGenerate

    return [TransformersGenerate(setup)]


def _genai(setup: PeerSetup) -> list[Contender]:
    from c2c_export.bench.peer_genai import PRECISIONS, GenAI

    return [GenAI(setup, precision) for precision in PRECISIONS]


def _llamacpp(setup: PeerSetup) -> list[Contender]:
    from c2c_export.bench.peer_llamacpp import LlamaCpp

    return [LlamaCpp(setup)]


PEERS: Mapping[str, Callable[[PeerSetup], list[Contender]]] = {
    "eager": _eager,
    "eager-last": _eager_last,
    "transformers": _transformers,
    "genai": _genai,
    "llamacpp": _llamacpp,
}


def parse_peers(text: str) -> tuple[str, ...]:
    """What ``--peers`` takes: ``none``, ``all-available``, or names with commas between them."""
    if text == NONE:
        return ()
    if text == ALL:
        return tuple(PEERS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PEERS]
    if unknown or not names:
        raise UsageError(
            f"--peers {text}: {', '.join(map(repr, unknown)) or 'nothing'} is no peer",
            f"give {ALL}, {NONE}, or some of {','.join(PEERS)}",
        )
    return names


def make_peers(
    names: Sequence[str], setup: PeerSetup, on_peer: Callable[[str], None]
) -> tuple[list[Contender], list[SkippedPeer]]:
    """The peers that are here, and those that are not. ``on_peer`` is told what is being made."""
    made: list[Contender] = []
    skipped = []
    for name in names:
        on_peer(f"set up {name}")
        try:
            made += PEERS[name](setup)
        except C2CError as error:
            skipped.append(SkippedPeer(name, str(error)))
    return made, skipped
