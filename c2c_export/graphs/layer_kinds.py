"""Which layers of a model compute alike: they differ in nothing but their weights and their number.

Nothing is known here of architectures. Two layers are of one kind if all that their modules hold is
equal, and all that the config says of each; what cannot be compared makes another kind, so that a layer
is rather traced for nothing than repeated wrongly.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

_NUMBER = "layer_idx"  # a layer's own number, which its attention says to the cache step
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_TENSORS_AND_PARTS = ("_parameters", "_buffers", "_modules")  # compared without what they contain


def layer_kinds(layers: Sequence[nn.Module], config: Any, write_only: int | None) -> list[int]:
    """The number of the first layer of its kind, for each of ``layers``.

    ``config``: the transformers config, whose lists with an entry a layer are read. ``write_only``: the
    layer of which only keys and values are needed.
    """
    stated = [
        value
        for value in vars(config).values()
        if isinstance(value, list | tuple) and len(value) >= len(layers)
    ]
    uses = Counter(weight for layer in layers for weight in {id(w) for w in _tensors(layer)})
    shared = {weight for weight, num_layers in uses.items() if num_layers > 1}
    firsts: dict[Hashable, int] = {}
    kinds = []
    for number, layer in enumerate(layers):
        said = _comparable([value[number] for value in stated])
        facts = _facts(layer, shared), said, number == write_only
        kinds.append(firsts.setdefault(facts, number))
    return kinds


def _tensors(layer: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(layer.parameters(), layer.buffers())


def _facts(module: nn.Module, shared: Container[int]) -> Hashable:
    """All that a module's computation depends on, but for what its weights hold. A weight in ``shared``
    has one name in a trace, that of another layer: layers of one kind must have the same."""
    attributes = {
        name: value
        for name, value in vars(module).items()
        if name != _NUMBER and name not in _TENSORS_AND_PARTS
    }
    weights = tuple(
        (
            name,
            None if weight is None else (weight.shape, weight.dtype, weight.stride()),
            id(weight) if id(weight) in shared else None,
        )
        for held in (module._parameters, module._buffers)
        for name, weight in held.items()
    )
    parts = tuple(
        (name, None if part is None else _facts(part, shared))
        for name, part in module._modules.items()
    )
    return type(module), _comparable(attributes), weights, parts


def _comparable(value: object) -> Hashable:
    """Equal for what is surely equal. Objects that are not plain are equal to themselves only."""
    if isinstance(value, _PLAIN):
        return type(value), repr(value)
    if isinstance(value, Mapping):
        return type(value), tuple((_comparable(k), _comparable(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_comparable(entry) for entry in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_comparable(entry) for entry in value)
    if isinstance(value, partial):
        return type(value), _comparable((value.func, value.args, value.keywords))
    return "object", id(value)
