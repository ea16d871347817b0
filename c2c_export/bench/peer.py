"""What a peer needs to be set up, and how one says that it is not installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from c2c_runtime.errors import UnavailableError
from c2c_runtime.sections.alignment import Section

if TYPE_CHECKING:
    from c2c_export.pair.pair import PairSource


@dataclass(frozen=True)
class PeerSetup:
    """``source``: the checkpoints that the bundle was made of. ``sections``: how the bundle cuts and
    aligns a prompt. ``max_seq_len``: tokens that prompt and answer may have together."""

    source: PairSource
    sections: Callable[[Sequence[int]], Sequence[Section]]
    max_seq_len: int
    num_threads: int


def import_peer(module: str, package: str) -> ModuleType:
    """The module of a peer. ``UnavailableError`` says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"{package} is not installed",
            "pip install 'c2c-export[bench]', or leave the peer out of --peers",
        ) from error
