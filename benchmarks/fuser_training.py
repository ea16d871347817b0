"""A Fuser in training: begun in the published layout, every gate open, and saved into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint, LinkedLayers, read_fuser
from c2c_export.fusers.init_fuser import init_fuser
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.model_source import ModelSource


@dataclass(frozen=True)
class FuserInTraining:
    """Its checkpoint, and the layers in float32 that training changes."""

    checkpoint: FuserCheckpoint
    layers: LinkedLayers

    @classmethod
    def begin(
        cls,
        receiver: ModelSource,
        sharer: ModelSource,
        directory: Path,
        *,
        hidden_dim: int,
        seed: int,
    ) -> FuserInTraining:
        """Write a random one into ``directory``, in place of a Fuser that is there, and read it."""
        init_fuser(
            *(model_dims(read_config(source), source) for source in (receiver, sharer)),
            directory,
            hidden_dim=hidden_dim,
            intermediate_dim=hidden_dim,
            seed=seed,
            dtype="float16",
            recipe={
                "base_model": receiver.name,
                "teacher_model": sharer.name,
                "is_do_alignment": True,
                "alignment_strategy": "longest",
            },
            force=True,
        )
        checkpoint = read_fuser(directory)
        return cls(checkpoint, checkpoint.load_linked_layers())

    def parameters(self) -> list[nn.Parameter]:
        """All but the gates, from now on with gradients."""
        return [
            parameter.requires_grad_()
            for _, layer in self.layers.values()
            for name, parameter in layer.named_parameters()
            if not name.endswith("gate_logit")
        ]

    def save(self) -> None:
        """Write the weights as they are, in float16."""
        for target, (_, layer) in self.layers.items():
            _, index = self.checkpoint.links[target]
            state_dict = {name: weight.half() for name, weight in layer.state_dict().items()}
            torch.save(state_dict, self.checkpoint.layers[index].path)
