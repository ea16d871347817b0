"""A Fuser with random weights in the published layout: for trying, testing and benchmarking.

It carries no knowledge, so it cannot make a Receiver better; it has the cost of a trained one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from c2c_export.fusers.fuser import C2CFuserLayer
from c2c_runtime.bundle.manifest import ModelDims
from c2c_runtime.bundle.names import KINDS
from c2c_runtime.errors import UnavailableError, UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def last_aligned(num_receiver_layers: int, num_sharer_layers: int) -> list[int]:
    """Sharer layer of each Receiver layer: last to last, towards the front; ends are repeated."""
    offset = num_sharer_layers - num_receiver_layers
    return [min(max(offset + t, 0), num_sharer_layers - 1) for t in range(num_receiver_layers)]


def k_nearest(num_receiver_layers: int, num_sharer_layers: int) -> list[int]:
    """Sharer layer of each Receiver layer: the nearest by depth in 0..1, ties to the front."""

    def depth(layer: int, num_layers: int) -> float:
        return layer / (num_layers - 1) if num_layers > 1 else 0.0

    return [
        min(
            range(num_sharer_layers),
            key=lambda s: abs(depth(s, num_sharer_layers) - depth(t, num_receiver_layers)),
        )
        for t in range(num_receiver_layers)
    ]


_MAPPINGS: dict[str, Callable[[int, int], list[int]]] = {
    "last_aligned": last_aligned,
    "k_nearest": k_nearest,
}


def init_fuser(
    receiver: ModelDims,
    sharer: ModelDims,
    directory: Path,
    *,
    hidden_dim: int = 1024,
    intermediate_dim: int = 1024,
    num_layers: int = 3,
    seed: int = 0,
    scale: float = 0.1,
    open_share: float = 1.0,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    mapping: Literal["last_aligned", "k_nearest"] = "last_aligned",
    recipe: Mapping[str, object] | None = None,
    force: bool = False,
) -> Path:
    """Write a Fuser of class C2CProjector and return ``directory``.

    ``scale`` multiplies what is added to the caches: 1 is PyTorch's usual initialisation, 0 leaves
    the Receiver as it is. ``open_share`` of all gates (two a Receiver layer), chosen by ``seed``,
    are open. ``recipe`` adds to config.json's ``model``. The same arguments give the same bytes.
    Raises UsageError where ``directory`` exists (unless ``force``, which replaces Fusers only) or an
    argument is impossible, UnavailableError where it cannot be written.
    """
    _check_arguments(hidden_dim, intermediate_dim, num_layers, open_share, scale)
    _check_directory(directory, force)
    init_args = {
        "source_dim": sharer.head_dim,
        "target_dim": receiver.head_dim,
        "source_num_heads": sharer.num_kv_heads,
        "target_num_heads": receiver.num_kv_heads,
        "intermediate_dim": intermediate_dim,
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
        "dtype": {"__type__": "torch.dtype", "value": dtype},
    }
    generator = torch.Generator().manual_seed(seed)
    num_gates = 2 * receiver.num_layers
    order = torch.randperm(num_gates, generator=generator).tolist()
    is_open = {gate: rank < round(open_share * num_gates) for rank, gate in enumerate(order)}
    sharer_layers = _MAPPINGS[mapping](receiver.num_layers, sharer.num_layers)
    layer_map = {str(t): [[s, t]] for t, s in enumerate(sharer_layers)}
    model = {"is_do_alignment": False, "mapping": mapping, **(recipe or {})}
    note = f"random weights of c2c-export init-fuser, seed {seed}, scale {scale}"
    with _written_beside(directory) as partial:
        final = partial / "final"
        final.mkdir(parents=True)
        for index in range(receiver.num_layers):
            state_dict = _random_state_dict(init_args, generator, scale)
            for offset, kind in enumerate(KINDS):
                logit = 1.0 if is_open[2 * index + offset] else -1.0
                state_dict[f"{kind}_gate_logit"] = torch.tensor(logit)
            rounded = {name: weight.to(_DTYPES[dtype]) for name, weight in state_dict.items()}
            torch.save(rounded, final / f"projector_{index}.pt")
            described = {"class": C2CFuserLayer.published_name, "init_args": init_args}
            _write_json(final / f"projector_{index}.json", described)
        _write_json(final / "projector_config.json", {"0": {"1": layer_map}})
        _write_json(partial / "config.json", {"model": model, "note": note})
    return directory


def _check_directory(directory: Path, force: bool) -> None:
    if not directory.exists():
        return
    if not force:
        raise UsageError(f"{directory} exists", "choose another directory, or use --force")
    is_fuser = (directory / "final" / "projector_config.json").is_file()
    if not is_fuser and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(
            f"{directory} is neither empty nor a Fuser, so it is not replaced, --force or not",
            "choose another directory",
        )


@contextmanager
def _written_beside(directory: Path) -> Iterator[Path]:
    """A directory to fill, which takes the place of ``directory`` once everything is written."""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        yield partial
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
    except OSError as error:
        raise UnavailableError(
            f"{directory} cannot be written: {error.strerror}",
            "choose a directory that can be written to, on a disk with room",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _random_state_dict(
    init_args: Mapping[str, object], generator: torch.Generator, scale: float
) -> dict[str, Tensor]:
    """One layer's weights, float32: uniform within 1/sqrt(fan in), norms and temperature 1."""
    with torch.device("meta"):
        shapes = C2CFuserLayer.from_init_args(init_args).state_dict()
    state_dict = {}
    bound = 0.0
    for name, empty in shapes.items():
        if empty.ndim == 2:  # a product's weight; its bias follows it
            bound = 1 / math.sqrt(empty.shape[1])
        if empty.ndim == 2 or name.endswith(".bias"):
            weight = (torch.rand(empty.shape, generator=generator) * 2 - 1) * bound
            state_dict[name] = weight * scale if "_proj_out." in name else weight
        else:
            state_dict[name] = torch.ones(empty.shape)
    return state_dict


def _check_arguments(
    hidden_dim: int, intermediate_dim: int, num_layers: int, open_share: float, scale: float
) -> None:
    if min(hidden_dim, intermediate_dim) < 1:
        raise UsageError(f"hidden sizes are {hidden_dim} and {intermediate_dim}", "use 1 or more")
    if num_layers < C2CFuserLayer.min_num_layers:
        raise UsageError(
            f"a Fuser of {num_layers} layers is too shallow",
            f"use {C2CFuserLayer.min_num_layers} or more",
        )
    if not 0 <= open_share <= 1:
        raise UsageError(f"the share of open gates is {open_share}", "use a number in 0..1")
    if not (math.isfinite(scale) and scale >= 0):
        raise UsageError(f"scale is {scale}", "use a finite number of 0 or more")


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
