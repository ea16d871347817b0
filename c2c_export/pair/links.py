"""The pair that checkpoints make together, as a bundle's manifest holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint
from c2c_export.pair.pair import MultiSharer
from c2c_runtime.bundle.manifest import ModelDims, Pair, SharerLink


def pair_from_sources(
    name: str,
    receiver: ModelDims,
    sharers: Sequence[tuple[ModelDims, FuserCheckpoint]],
    alignments: Sequence[Literal["none", "first", "longest"]],
    multi_sharer: MultiSharer = "sequential",
) -> Pair:
    """The pair as a bundle's manifest holds it, from what ``check_pair`` has let pass.

    A Sharer keeps its layers up to the highest one that an open gate reads; none if all are closed.
    """
    links = []
    for (dims, fuser), alignment in zip(sharers, alignments, strict=True):
        layer_links = fuser.layer_links()
        read = [link.sharer_layer for link in layer_links if link.key_gate or link.value_gate]
        links.append(
            SharerLink(
                dims,
                layer_links,
                max(read, default=-1) + 1,
                alignment,
                fuser.fuses_whole_sections,
                fuser.max_fused_len,
            )
        )
    return Pair(name, receiver, tuple(links), multi_sharer)
