"""What ``--precision`` says: the numbers a graph computes in, and those its weights are stored in, a role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from c2c_runtime.bundle import names
from c2c_runtime.errors import UsageError

Activations = Literal["fp32", "fp16", "bf16"]
Weights = Literal["int8", "int4", "fp8"]
_ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)
_WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_ROLES = f"{names.RECEIVER}, sharer, sharer1, {names.FUSER}"
# From the least loss to the most; what a bundle is held to follows its lossiest graph.
_LOSS = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")


@dataclass(frozen=True)
class GraphPrecision:
    """``activations``: of products, caches and all else that is computed. ``weights``: of the matrices
    of products, None: as the activations."""

    activations: Activations = "fp32"
    weights: Weights | None = None

    def __str__(self) -> str:
        return self.weights or self.activations


@dataclass(frozen=True)
class Precision:
    """A default and what single roles have instead. ``str`` gives back what ``parse_precision`` reads."""

    default: GraphPrecision = GraphPrecision()
    roles: Mapping[str, GraphPrecision] = field(default_factory=dict)

    def of(self, role: str) -> GraphPrecision:
        """That of the graph of a role: its own, else that of all Sharers if it is one, else the default.
        A whole Sharer that speaks has what its Sharer has."""
        role = names.role_of_model(role)
        if role not in self.roles and role.startswith("sharer"):
            role = "sharer"
        return self.roles.get(role, self.default)

    @property
    def activations(self) -> Activations:
        """Of every graph: they share caches."""
        return self.default.activations

    @property
    def lossiest(self) -> str:
        """The name of the precision, of any role, that loses most."""
        return max(map(str, (self.default, *self.roles.values())), key=_LOSS.index)

    def __str__(self) -> str:
        return ",".join([str(self.default), *(f"{role}={own}" for role, own in self.roles.items())])


FP32 = Precision()


def parse_precision(text: str, few_bits_in: Activations = "fp16") -> Precision:
    """``fp16``, ``int4,fuser=fp16``, ``receiver=int4,sharer=int8``: a default and roles that differ.

    int8, int4 and fp8 are stored so and computed in ``few_bits_in``: fp16 on GPUs, fp32 on CPUs. What
    no role and no default names has the activations of the rest. Raises ``UsageError``.
    """
    default: GraphPrecision | None = None
    roles: dict[str, GraphPrecision] = {}
    for part in text.split(","):
        role, separator, name = part.strip().rpartition("=")
        own = _graph_precision(name.strip(), text, few_bits_in)
        if not separator:
            if default is not None:
                raise _nonsense(text, "it names two defaults")
            default = own
        elif not _is_role(role.strip()):
            raise _nonsense(text, f"{role!r} is no role ({_ROLES})")
        elif roles.setdefault(role.strip(), own) is not own:
            raise _nonsense(text, f"it names {role} twice")
    found = {own.activations for own in (*roles.values(), *([default] if default else []))}
    if len(found) > 1:
        raise _nonsense(
            text,
            f"graphs that compute in {' and '.join(sorted(found))} cannot share caches (int8, int4 and "
            f"fp8 weights are computed with in {few_bits_in})",
        )
    return Precision(default or GraphPrecision(found.pop()), roles)


def _graph_precision(name: str, text: str, few_bits_in: Activations) -> GraphPrecision:
    for activations in _ACTIVATIONS:
        if name == activations:
            return GraphPrecision(activations)
    for weights in _WEIGHTS:
        if name == weights:
            return GraphPrecision(few_bits_in, weights)
    raise _nonsense(text, f"{name!r} is none of {', '.join((*_ACTIVATIONS, *_WEIGHTS))}")


def _is_role(role: str) -> bool:
    number = role.removeprefix("sharer")
    is_sharer = role.startswith("sharer") and (not number or number.isdecimal())
    return role in (names.RECEIVER, names.FUSER) or is_sharer


def _nonsense(text: str, why: str) -> UsageError:
    return UsageError(
        f"--precision {text}: {why}", "give one for all, such as fp16, or fp16,receiver=int4"
    )
