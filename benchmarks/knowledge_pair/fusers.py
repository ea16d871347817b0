"""The Fusers that are compared: the trained one, the same with every gate closed, the control."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from benchmarks.knowledge_pair.conditions import FuserName
from benchmarks.knowledge_pair.paths import Parts


def all_fusers(parts: Parts, directory: Path) -> dict[FuserName, Path]:
    """The checkpoint of each; the closed one is written into ``directory``, which must exist."""
    return {
        "fuser": parts.fuser,
        "closed": close_gates(parts.fuser, directory / "fuser_closed"),
        "control": parts.control,
    }


def close_gates(fuser: Path, directory: Path) -> Path:
    """A copy of a checkpoint at ``directory`` (a new folder) whose gates are all closed."""
    shutil.copytree(fuser, directory)
    for path in (directory / "final").glob("projector_*.pt"):
        state_dict = torch.load(path, weights_only=True)
        for name, weight in state_dict.items():
            if name.endswith("gate_logit"):
                weight.fill_(-1.0)
        torch.save(state_dict, path)
    return directory
