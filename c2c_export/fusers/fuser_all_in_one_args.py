"""Options of the published class AllInOneProjector: their defaults, and which have no computation.

The published code accepts some options that it cannot run; these are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from c2c_export.fusers.fuser import check_names, is_count
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_runtime.bundle.names import Kind
from c2c_runtime.errors import Problem

CLASS_NAME = "AllInOneProjector"

# What an input-dependent gate or weight looks at: (side, kind), concatenated in this order.
FEATURES: dict[str, tuple[tuple[str, Kind], ...]] = {
    "target_key": (("receiver", "key"),),
    "target_value": (("receiver", "value"),),
    "both": (("receiver", "key"), ("receiver", "value")),
    "target_projected_key": (("receiver", "key"), ("projected", "key")),
    "target_projected_value": (("receiver", "value"), ("projected", "value")),
    "target_projected_both": (
        ("receiver", "key"),
        ("receiver", "value"),
        ("projected", "key"),
        ("projected", "value"),
    ),
}
_GRANULARITIES = ("scalar", "token", "head", "head_merged", "value")
_ACTIVATIONS = ("gelu", "relu", "silu")
_COUNTS = (
    "source_dim",
    "target_dim",
    "source_num_heads",
    "target_num_heads",
    "hidden_dim",
    "num_layers",
    "weight_hidden_dim",
    "max_sequence_length",
)
_FLAGS = (
    "use_layer_norm",
    "use_residual",
    "use_swiglu",
    "gate_depends_on_input",
    "weight_depends_on_input",
    "preserve_target_weight",
    "add_self",
    "use_concat",
)
# Arguments that only matter in training, that the weights themselves answer, or (pos_emb) that the
# published class takes and never looks at.
_IGNORED = frozenset(
    {
        "anneal_steps",
        "dtype",
        "final_temperature",
        "gate_init_value",
        "initial_temperature",
        "pos_emb",
        "use_gumbel",
        "weight_init_value",
    }
)


@dataclass(frozen=True)
class Choice:
    """How finely the gate, or the weights, are chosen, and from what."""

    granularity: str
    from_input: bool  # by a small network over the caches; else by parameters
    features: tuple[tuple[str, Kind], ...]  # what that network looks at

    @property
    def is_per_place(self) -> bool:
        """Whether there is a parameter for each place in a section, counted from its first token."""
        return not self.from_input and self.granularity != "scalar"

    @property
    def is_average(self) -> bool:
        """Whether it is computed from the average over a section's tokens."""
        return self.from_input and self.granularity == "scalar"

    def num_inputs(self, shape: FuserShape) -> int:
        """Features that the network reads at once: of one head, or of all of them."""
        merges_heads = self.granularity in ("token", "head_merged")
        num_heads = shape.receiver_heads if merges_heads else 1
        return len(self.features) * shape.receiver_dim * num_heads

    def num_outputs(self, shape: FuserShape) -> int:
        """Numbers that the network computes at once."""
        sizes = {"head_merged": shape.receiver_heads, "value": shape.receiver_dim}
        return sizes.get(self.granularity, 1)

    def parameter_shape(self, shape: FuserShape, max_len: int) -> tuple[int, ...]:
        """Shape of the parameter, for sections of up to ``max_len`` tokens."""
        num_axes = {"scalar": 0, "token": 1, "head": 2, "value": 3}[self.granularity]
        return (max_len, shape.receiver_heads, shape.receiver_dim)[:num_axes]


@dataclass(frozen=True)
class AllInOneArgs:
    """``init_args`` that shape the computation; defaults as published.

    ``dropout`` computes nothing, but a dropout of 0 changes the numbers in the weights' names.
    """

    source_dim: int
    target_dim: int
    source_num_heads: int = 1
    target_num_heads: int = 1
    hidden_dim: int = 512
    num_layers: int = 2
    dropout: float = 0.1
    activation: str = "gelu"
    use_layer_norm: bool = True
    use_residual: bool = True
    use_swiglu: bool = False
    gate_granularity: str = "scalar"
    gate_depends_on_input: bool = False
    gate_input_features: str | None = "target_key"
    weight_granularity: str = "scalar"
    weight_depends_on_input: bool = False
    weight_input_features: str | None = "target_key"
    preserve_target_weight: bool = True
    add_self: bool = True
    use_concat: bool = False
    weight_hidden_dim: int = 1024
    scalar_temperature: float = 0.005
    max_sequence_length: int = 8192

    @classmethod
    def of(cls, init_args: Mapping[str, object]) -> AllInOneArgs:
        """Arguments that pass ``check_args``."""
        kept: dict[str, Any] = {k: v for k, v in init_args.items() if k not in _IGNORED}
        return cls(**kept)

    @property
    def shape(self) -> FuserShape:
        """KV heads and head sizes of both sides."""
        return FuserShape(
            self.source_num_heads, self.source_dim, self.target_num_heads, self.target_dim
        )

    @property
    def gate(self) -> Choice:
        """How the gate is chosen, one for keys and values."""
        features = FEATURES.get(self.gate_input_features or "", ())
        return Choice(self.gate_granularity, self.gate_depends_on_input, features)

    @property
    def weight(self) -> Choice:
        """How the weights are chosen, of keys and of values."""
        features = FEATURES.get(self.weight_input_features or "", ())
        return Choice(self.weight_granularity, self.weight_depends_on_input, features)


def check_args(init_args: Mapping[str, object]) -> list[Problem]:
    """Arguments that are missing, unknown or impossible, and options that have no computation."""
    known = {field.name for field in fields(AllInOneArgs)} | _IGNORED
    problems = check_names(CLASS_NAME, init_args, known)
    for name, value in init_args.items():
        problems += _value_problems(name, value)
    for what in ("gate", "weight"):
        problems += _choice_problems(what, init_args)
    return problems


def _value_problems(name: str, value: object) -> Iterator[Problem]:
    cause = f"init_args: {name} is {value!r}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _COUNTS and not is_count(value):
        yield Problem(cause, "it must be a number of 1 or more")
    elif name in _FLAGS and not isinstance(value, bool):
        yield Problem(cause, "it must be true or false")
    elif name == "dropout" and not (is_number and 0 <= value <= 1):  # type: ignore[operator]
        yield Problem(cause, "it must be a number in 0..1")
    elif name == "scalar_temperature" and not (is_number and value and math.isfinite(value)):  # type: ignore[arg-type]
        yield Problem(
            cause, "it must be a finite number other than 0, as weights are divided by it"
        )
    elif name == "activation":
        yield from _unless_one_of(name, str(value).lower(), _ACTIVATIONS)


def _choice_problems(what: str, init_args: Mapping[str, object]) -> Iterator[Problem]:
    option = f"{what}_granularity"
    granularity = init_args.get(option, "scalar")
    from_input = bool(init_args.get(f"{what}_depends_on_input", False))
    yield from _unless_one_of(option, granularity, _GRANULARITIES)
    if from_input:
        name = f"{what}_input_features"
        yield from _unless_one_of(name, init_args.get(name, "target_key"), FEATURES)
    if granularity == "head_merged" and not from_input:
        yield Problem(
            f"init_args: {option} head_merged without {what}_depends_on_input, for which the "
            f"published {CLASS_NAME} has no computation",
            f"such a Fuser cannot have been trained; use {option} head, or {what}_depends_on_input",
        )
    if what == "gate" and granularity == "token" and from_input:
        yield Problem(
            f"init_args: {option} token with {what}_depends_on_input, on which the published "
            f"{CLASS_NAME} fails",
            f"such a Fuser cannot have been trained; use {option} head_merged",
        )


def _unless_one_of(name: str, value: object, allowed: Collection[str]) -> Iterator[Problem]:
    if value not in allowed:
        yield Problem(f"init_args: {name} is {value!r}", f"it must be one of {', '.join(allowed)}")
