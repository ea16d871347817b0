"""The text side of a bundle: tokenizers, and the alignment table of each Sharer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2c_export.pair.alignment import build_alignment
from c2c_export.pair.prepare import PreparedPair
from c2c_export.reading.tokenizers import export_tokenizer
from c2c_export.yardstick.golden import TEXT
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import TokenizerSpec


@dataclass(frozen=True)
class TextSide:
    """``tokenizers`` and ``alignments``: their entries in the manifest, by role. ``tables``: the alignment
    of each Sharer, None for same ids."""

    tokenizers: dict[str, TokenizerSpec]
    alignments: dict[str, str]
    tables: tuple[np.ndarray | None, ...]


def write_text_side(prepared: PreparedPair, root: Path) -> TextSide:
    """Write tokenizers and alignment tables into the bundle at ``root``."""
    specs: dict[str, TokenizerSpec] = {}
    for role, tokenizer in prepared.tokenizers.items():
        relative = f"tokenizers/{role}"
        directory = root / relative
        directory.mkdir(parents=True)
        template = prepared.default_templates.get(role)
        specs[role] = export_tokenizer(tokenizer, directory, relative, template)
    alignments: dict[str, str] = {}
    tables: list[np.ndarray | None] = []
    for number, sharer in enumerate(prepared.pair.sharers, start=1):
        if sharer.alignment == "none":
            tables.append(None)
            continue
        role = names.sharer(number)
        table = build_alignment(
            prepared.tokenizers[names.RECEIVER],
            prepared.tokenizers[role],
            prepared.pair.receiver.vocab_size,
            sharer.dims.vocab_size,
            sharer.alignment,
        )
        alignments[role] = f"alignment/{role}.npy"
        path = root / alignments[role]
        path.parent.mkdir(exist_ok=True)
        np.save(path, table)
        tables.append(table)
    return TextSide(specs, alignments, tuple(tables))


def golden_text_ids(prepared: PreparedPair) -> list[int] | None:
    """The golden text in Receiver tokens; None where the pair has no tokenizers."""
    tokenizer = prepared.tokenizers.get(names.RECEIVER)
    return None if tokenizer is None else list(tokenizer.encode(TEXT, add_special_tokens=False))
