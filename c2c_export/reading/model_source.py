"""Where a checkpoint lies: a directory as save_pretrained writes it, a GGUF file, or a hub id.

Found before PyTorch is loaded, so that a mistyped path is refused at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from c2c_export.reading.hub import MODEL_PATTERNS, download
from c2c_export.system_errors import missing
from c2c_runtime.errors import PairError

OTHER_WAYS = "give a local directory with config.json and model.safetensors, or a GGUF file"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint on this machine. ``gguf_file`` is a name inside ``directory``."""

    text: str  # as it was given
    directory: Path
    gguf_file: str | None = None

    @property
    def name(self) -> str:
        """A short name for people: the hub id, the directory's name, or the GGUF file's."""
        if self.gguf_file is not None:
            return Path(self.gguf_file).stem
        return self.text if _HUB_ID.fullmatch(self.text) else self.directory.name

    def __str__(self) -> str:
        return str(self.directory / self.gguf_file if self.gguf_file else self.directory)


def resolve_model(text: str) -> ModelSource:
    """Find a checkpoint: a local directory, a local ``.gguf`` file, or a hub id (downloaded).

    Raises PairError where there is none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return ModelSource(text, path.resolve())
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            cause = missing(path) if path.is_symlink() else f"there is no GGUF file {path}"
            raise PairError.of(cause, "check the path")
        # A link of the hub's cache keeps its name: the file behind it is called after its hash.
        return ModelSource(text, path.parent.resolve(), path.name)
    if path.is_file():
        raise PairError.of(f"{path} is a file, but no GGUF file", OTHER_WAYS)
    if _HUB_ID.fullmatch(text):
        remedy = f"{OTHER_WAYS} (there is no directory {text} here)"
        return ModelSource(text, download(text, MODEL_PATTERNS, remedy, top_level_only=True))
    raise PairError.of(f"there is no directory {text}, and it is no hub id (org/name)", OTHER_WAYS)
