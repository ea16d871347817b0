"""Fuser layers: what writes a Sharer's KV cache into the Receiver's, one layer at a time.

The module's parameters carry the names of the published checkpoints, so a published state dict
loads as it is; the constructors' arguments are the published ``init_args``. Source of the
computation: Fu et al., "Cache-to-Cache", arXiv 2510.03215, and its published checkpoints.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from c2c_export.fusers.fuser_shape import FuserShape
from c2c_runtime.bundle.names import KINDS, Kind
from c2c_runtime.errors import Problem


@dataclass(frozen=True)
class SectionLimits:
    """How a Fuser depends on where a section begins and ends.

    ``whole``: the option because of which a section must be fused in one call and not in chunks,
    since a token's fusion depends on the section's other tokens or on its place among them; None
    where each token is fused on its own. ``max_len``: the longest section there are weights for.
    """

    whole: str | None = None
    max_len: int | None = None


class FuserLayer(nn.Module):
    """One Receiver layer's Fuser. Inference only: gates are constants, read with the weights.

    Subclasses say what becomes of a section, and how their published ``init_args`` are read.
    ``writes``: the kinds of cache that the layer changes; none until weights are loaded.
    """

    published_name: ClassVar[str]
    shape: FuserShape
    writes: frozenset[Kind]

    def __init__(self) -> None:
        super().__init__()
        self.writes = frozenset()
        # Gates become Python constants, so that nothing of a closed branch is traced.
        self.register_load_state_dict_post_hook(lambda layer, _: layer.read_gates())

    @classmethod
    @abstractmethod
    def check_init_args(cls, init_args: Mapping[str, object]) -> list[Problem]:
        """Everything that keeps a layer from being made of published ``init_args``."""

    @classmethod
    @abstractmethod
    def from_init_args(cls, init_args: Mapping[str, object]) -> FuserLayer:
        """A layer, in float32 and untrained, from ``init_args`` that pass ``check_init_args``."""

    @abstractmethod
    def forward(
        self,
        sharer_key: Tensor | None,
        sharer_value: Tensor | None,
        receiver_key: Tensor | None,
        receiver_value: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fused key and value of one section, each [batch, kv_heads, tokens, head_dim].

        Keys come as they lie in the cache, after rotary embedding. A kind that is not in ``reads``
        may be None; one that is not in ``writes`` comes back as it was given.
        """

    @abstractmethod
    def read_gates(self) -> None:
        """Set ``writes`` to what the weights, as they are now, change. Called when any are loaded."""

    @property
    def reads(self) -> frozenset[Kind]:
        """The kinds of cache, of both models, that it takes to compute ``writes``."""
        return self.writes

    @property
    def facts(self) -> Hashable:
        """All that its computation depends on besides weights and caches. Layers of one class with
        equal facts and weights of equal names and sizes compute alike."""
        return self.shape, self.writes

    @property
    def key_gate(self) -> bool:
        """Whether keys are changed at all."""
        return "key" in self.writes

    @property
    def value_gate(self) -> bool:
        """Whether values are changed at all."""
        return "value" in self.writes

    @property
    def section_limits(self) -> SectionLimits:
        """What a section must be like; by default anything goes."""
        return SectionLimits()


class _Block(nn.Module):
    """x + W2 gelu(W1 rmsnorm(x)), without biases; gelu is the exact one. [..., hidden_dim]."""

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_dim, eps=1e-6)
        self.w1 = nn.Linear(hidden_dim, intermediate_dim, bias=False)
        self.w2 = nn.Linear(intermediate_dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.w2(nn.functional.gelu(self.w1(self.norm(x))))
        return y


class _Stack(nn.Module):
    """Blocks in a row, all of one width."""

    def __init__(self, hidden_dim: int, intermediate_dim: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(hidden_dim, intermediate_dim) for _ in range(num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@dataclass(frozen=True)
class _C2CArgs:
    """``init_args`` of class C2CProjector that shape the computation; defaults as published."""

    source_dim: int
    target_dim: int
    source_num_heads: int = 1
    target_num_heads: int = 1
    intermediate_dim: int = 1024
    hidden_dim: int = 1024
    num_layers: int = 3


# Arguments that only matter in training, or that the weights themselves answer.
_TRAINING_ARGS = frozenset(
    {"dropout", "initial_temperature", "final_temperature", "anneal_steps", "dtype", "zero_init"}
)


class C2CFuserLayer(FuserLayer):
    """The published class C2CProjector, for keys and values separately:

    x = stack1(in([sharer heads, receiver heads])), then
    fused = receiver + gate * sigmoid(scalar_head(stack_s(x))) * proj_out(stack_p(x))

    with one scale a head and a gate of 0 or 1. The last line runs in float32 and is rounded once.
    """

    published_name: ClassVar[str] = "C2CProjector"
    min_num_layers: ClassVar[int] = 3

    def __init__(
        self,
        shape: FuserShape,
        hidden_dim: int = 1024,
        intermediate_dim: int = 1024,
        num_layers: int = 3,
    ) -> None:
        """``num_layers`` as published: 2 more than the blocks before the projection."""
        super().__init__()
        self.shape = shape
        num_blocks = num_layers - 2
        for kind in KINDS:
            parts = {
                "in": nn.Linear(shape.num_inputs, hidden_dim),
                "mlp1": _Stack(hidden_dim, intermediate_dim, 1),
                "scalar_mlp2": _Stack(hidden_dim, hidden_dim, 1),
                "scalar_head": nn.Linear(hidden_dim, shape.receiver_heads),
                "proj_mlp2": _Stack(hidden_dim, intermediate_dim, num_blocks),
                "proj_out": nn.Linear(hidden_dim, shape.num_outputs),
            }
            for name, part in parts.items():
                self.add_module(f"{kind}_{name}", part)
            self.register_parameter(f"{kind}_gate_logit", nn.Parameter(torch.zeros(())))
        # Steers the gates in training. Unused here, but part of every published state dict.
        self.register_buffer("gate_temperature", torch.ones(()))

    @classmethod
    def check_init_args(cls, init_args: Mapping[str, object]) -> list[Problem]:
        """Missing, unknown or impossible arguments."""
        known = {field.name for field in fields(_C2CArgs)}
        problems = check_names(cls.published_name, init_args, known | _TRAINING_ARGS)
        problems += [
            Problem(f"init_args: {name} is {value!r}", "it must be a number of 1 or more")
            for name, value in init_args.items()
            if name in known and not is_count(value)
        ]
        num_layers = init_args.get("num_layers", cls.min_num_layers)
        if is_count(num_layers) and num_layers < cls.min_num_layers:
            problems.append(
                Problem(
                    f"init_args: num_layers is {num_layers}",
                    f"class C2CProjector has at least {cls.min_num_layers}",
                )
            )
        return problems

    @classmethod
    def from_init_args(cls, init_args: Mapping[str, object]) -> C2CFuserLayer:
        """A layer of the sizes that ``init_args`` name."""
        kept: dict[str, Any] = {k: v for k, v in init_args.items() if k not in _TRAINING_ARGS}
        args = _C2CArgs(**kept)
        shape = FuserShape(
            args.source_num_heads, args.source_dim, args.target_num_heads, args.target_dim
        )
        return cls(shape, args.hidden_dim, args.intermediate_dim, args.num_layers)

    def read_gates(self) -> None:
        """A kind is changed if its ``{kind}_gate_logit`` is above 0; exactly 0 is closed."""
        self.writes = frozenset(
            kind for kind in KINDS if bool(self.get_parameter(f"{kind}_gate_logit") > 0)
        )

    def forward(
        self,
        sharer_key: Tensor | None,
        sharer_value: Tensor | None,
        receiver_key: Tensor | None,
        receiver_value: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fused key and value, each on its own."""
        return (
            self._fuse("key", sharer_key, receiver_key) if self.key_gate else receiver_key,
            self._fuse("value", sharer_value, receiver_value)
            if self.value_gate
            else receiver_value,
        )

    def _fuse(self, kind: Kind, sharer: Tensor | None, receiver: Tensor | None) -> Tensor:
        assert sharer is not None
        assert receiver is not None

        def part(name: str, x: Tensor) -> Tensor:
            y: Tensor = self.get_submodule(f"{kind}_{name}")(x)
            return y

        both = torch.cat([join_heads(sharer), join_heads(receiver)], dim=-1)
        x = part("mlp1", part("in", both))  # [batch, tokens, hidden_dim]
        projection = part("proj_out", part("proj_mlp2", x)).unflatten(
            -1, (self.shape.receiver_heads, self.shape.receiver_dim)
        )  # [batch, tokens, heads, head_dim]
        scale = part("scalar_head", part("scalar_mlp2", x)).sigmoid().unsqueeze(-1)
        change = (scale.float() * projection.float()).transpose(1, 2)
        return (receiver.float() + change).to(receiver.dtype)


def check_names(
    class_name: str, init_args: Mapping[str, object], known: Collection[str]
) -> list[Problem]:
    """Arguments of a class that are missing, or that it does not know."""
    problems = [
        Problem(f"init_args lack {name}", "take the projector_N.json that training wrote")
        for name in ("source_dim", "target_dim")
        if name not in init_args
    ]
    problems += [
        Problem(
            f"init_args hold {name}, which class {class_name} does not know",
            f"known are {', '.join(sorted(known))}",
        )
        for name in init_args
        if name not in known
    ]
    return problems


def is_count(value: object) -> TypeGuard[int]:
    """Whether an argument is a whole number of 1 or more."""
    return type(value) is int and value >= 1


def join_heads(cache: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] -> [batch, tokens, heads * head_dim]."""
    return cache.transpose(1, 2).flatten(2)
