"""Everything that is read and checked before anything is traced: problems are reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from c2c_export.fuser import FuserLayer
from c2c_export.pair import PairSource
from c2c_runtime.manifest import Limits, Pair

if TYPE_CHECKING:
    from c2c_export.build import BuildOptions


@dataclass(frozen=True)
class PreparedPair:
    """A pair that was found to fit together, with everything but the models' weights in memory.

    ``tokenizers`` by role; empty if any model has none. ``default_templates``: chat templates for
    Sharers that bring none. ``fusers``: for each Sharer {Receiver layer: (Sharer layer, module)}.
    """

    source: PairSource
    pair: Pair
    limits: Limits
    eos_ids: tuple[int, ...]
    tokenizers: dict[str, Any]
    default_templates: dict[str, str]
    fusers: list[dict[int, tuple[int, FuserLayer]]]


def prepare_pair(source: PairSource, options: BuildOptions) -> PreparedPair:
    """TODO"""
    raise NotImplementedError
