"""Checkpoints of real size with seeded random weights, written a shard at a time.

Their text means nothing; their sizes, and so the cost of building and running them, are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from c2c_export.building.progress import Stages
from c2c_export.fusers.init_fuser import init_fuser
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.model_source import resolve_model

CONFIGS = Path(__file__).with_name("configs")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_SHARD_BYTES = 2**29


def config_names() -> list[str]:
    """Every model whose config is here, as ``write_model`` takes it."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def read_fields(name: str) -> dict[str, Any]:
    """The published config.json of a model. KeyError if it is not here."""
    path = CONFIGS / f"{name}.json"
    if not path.is_file():
        raise KeyError(f"no config {name}; there are {', '.join(config_names())}")
    fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return fields


def model_on_meta(name: str) -> PreTrainedModel:
    """The model with its sizes and no memory."""
    config = AutoConfig.for_model(**read_fields(name))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def write_model(name: str, directory: Path, *, seed: int = 0, dtype: str = "bfloat16") -> Path:
    """A checkpoint of config ``name``; returns ``directory``. The same arguments give the same bytes.

    Memory stays below a shard and the largest weight, whatever the model's size.
    """
    directory.mkdir(parents=True)
    fields = read_fields(name) | {"dtype": dtype}
    model = model_on_meta(name)
    (directory / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for number, shard in enumerate(_shards(model, seed, DTYPES[dtype]), start=1):
        file_name = f"model-{number:05}.safetensors"
        save_file(shard, directory / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
        total_bytes += sum(weight.nbytes for weight in shard.values())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return directory


def _shards(model: PreTrainedModel, seed: int, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, empty in model.named_parameters():  # a tied table once
        weight = _random_weight(name, empty.shape, model.config, generator).to(dtype)
        if shard and num_bytes + weight.nbytes > _SHARD_BYTES:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = weight
        num_bytes += weight.nbytes
    yield shard


def _random_weight(name: str, shape: torch.Size, config: Any, generator: torch.Generator) -> Tensor:
    """Normal, as wide as models are initialised; norms near 1, biases as large as Qwen2's are."""
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:  # Gemma's norms multiply by 1 + weight, all others by weight
        return 0.1 * noise + (0.0 if config.model_type.startswith("gemma") else 1.0)
    if len(shape) == 1:
        return 0.5 * noise
    return noise.mul_(config.initializer_range)


def write_pair(
    receiver: str,
    sharer: str,
    directory: Path,
    *,
    seed: int = 0,
    dtype: str = "bfloat16",
    stages: Stages | None = None,
) -> dict[str, Path]:
    """Both models and a Fuser of hidden size 1024 in ``directory``; returns their paths by role."""
    stages = stages or Stages()
    paths = {role: directory / role for role in ("receiver", "sharer")}
    for offset, (role, name) in enumerate((("receiver", receiver), ("sharer", sharer))):
        with stages.stage(f"write {role} {name}"):
            write_model(name, paths[role], seed=seed + offset, dtype=dtype)
    sources = [resolve_model(str(path)) for path in paths.values()]
    receiver_dims, sharer_dims = (model_dims(read_config(source), source) for source in sources)
    paths["fuser"] = directory / "fuser"
    with stages.stage("write fuser"):
        init_fuser(receiver_dims, sharer_dims, paths["fuser"], seed=seed + 2, dtype=dtype)  # type: ignore[arg-type]
    return paths
