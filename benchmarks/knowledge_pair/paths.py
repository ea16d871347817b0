"""Where the parts of the pair lie, the committed ones by default, and what they hash to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Parts:
    """A folder with both models, the Fuser, its control, and the facts."""

    root: Path = HERE

    @property
    def receiver(self) -> Path:
        """Qwen3 checkpoint with tokenizer."""
        return self.root / "receiver"

    @property
    def sharer(self) -> Path:
        """Llama checkpoint with tokenizer."""
        return self.root / "sharer"

    @property
    def fuser(self) -> Path:
        """The Fuser that was trained on the Sharer's caches."""
        return self.root / "fuser"

    @property
    def control(self) -> Path:
        """The same Fuser, trained on caches that were shuffled between examples."""
        return self.root / "fuser_control"

    @property
    def facts(self) -> Path:
        """One fact a line, with its split."""
        return self.root / "facts.jsonl"

    @property
    def checksums(self) -> Path:
        """``hashes()`` as training left them."""
        return self.root / "checksums.sha256"

    def files(self) -> list[Path]:
        """Every file of the pair, sorted."""
        folders = (self.receiver, self.sharer, self.fuser, self.control)
        inside = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sorted([self.facts, *inside])

    def hashes(self) -> str:
        """A line a file, as ``sha256sum --check`` reads them."""
        return "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
            f"{path.relative_to(self.root).as_posix()}\n"
            for path in self.files()
        )
