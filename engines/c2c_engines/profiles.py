"""Optimisation profiles: the shapes an engine is built for, and whether they fit its graph.

A profile gives every input with a symbol in its shape a (min, opt, max). Inputs that share a symbol
share its value in each of the three; TensorRT notices a mismatch only when an engine runs, or ends
the build with a message about no input in particular.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, Limits, ProfileSpec, TensorSpec
from c2c_runtime.errors import InputError, Problem

Range = tuple[int, int, int]  # min, opt, max

# Tokens that kernels of a prefill are chosen for: a turn of a chat, not the longest prompt.
_TYPICAL_PROMPT_LEN = 256
_WORDS = ("min", "opt", "max")


def profiles_for(
    graph: GraphSpec,
    limits: Limits,
    *,
    max_section_len: int | None = None,
    min_max_batch: int = 1,
) -> tuple[ProfileSpec, ...]:
    """The profiles of a role's engine. Receiver: decode, prefill; Sharer: prefill; Fuser: fuse.

    ``max_section_len``: tokens of the longest section that a Fuser is given in one call, where that
    is not ``limits.max_prompt_len`` (a Fuser that has to see whole sections). ``min_max_batch``: rows
    that profiles allow at least, whatever the limits, see ``TensorRTLibrary.min_max_batch``.
    """
    batch = (1, 1, max(limits.max_batch_size, min_max_batch))
    if graph.role == names.FUSER:
        return (_profile("fuse", graph, batch, max_section_len or limits.max_prompt_len),)
    prefill = _profile("prefill", graph, batch, limits.max_prompt_len)
    if graph.role == names.RECEIVER:
        return (_profile("decode", graph, batch, 1), prefill)
    return (prefill,)


def check_profiles(graph: GraphSpec, profiles: Iterable[ProfileSpec]) -> None:
    """Raise ``InputError`` with everything about ``profiles`` that does not fit ``graph``."""
    profiles = tuple(profiles)
    problems = [problem for profile in profiles for problem in _problems(graph, profile)]
    doubled = len({profile.name for profile in profiles}) != len(profiles)
    if doubled:
        problems.append(Problem("two profiles have one name", "name each profile once"))
    if not profiles and any(_symbols(tensor) for tensor in graph.inputs):
        problems.append(
            Problem("there is no profile", "give one: the graph's shapes are not fixed")
        )
    if problems:
        raise InputError(f"the profiles do not fit the graph {graph.role}:", problems)


def _profile(name: str, graph: GraphSpec, batch: Range, max_tokens: int) -> ProfileSpec:
    tokens = (1, min(max_tokens, _TYPICAL_PROMPT_LEN), max_tokens)
    values: dict[str, Range] = {"batch": batch, "tokens": tokens}
    shapes = {}
    for tensor in graph.inputs:
        unknown = [symbol for symbol in _symbols(tensor) if symbol not in values]
        if unknown:
            raise InputError.of(
                f"the input {tensor.name} of the graph {graph.role} has the dimension {unknown[0]}, "
                "for which an engine has no range",
                f"export the graph with numbers in place of everything but {', '.join(values)}",
            )
        if _symbols(tensor):
            low, opt, high = (
                tuple(values[dim][i] if isinstance(dim, str) else dim for dim in tensor.shape)
                for i in range(3)
            )
            shapes[tensor.name] = (low, opt, high)
    return ProfileSpec(name, shapes)


def _symbols(tensor: TensorSpec) -> list[str]:
    return [dim for dim in tensor.shape if isinstance(dim, str)]


def _problems(graph: GraphSpec, profile: ProfileSpec) -> Iterable[Problem]:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    for name in profile.shapes:
        if name not in inputs:
            yield Problem(
                f"profile {profile.name}: {name} is no input of the graph",
                f"the inputs are {', '.join(inputs)}",
            )
    for tensor in graph.inputs:
        if tensor.name in profile.shapes:
            yield from _shape_problems(tensor, profile)
        elif _symbols(tensor):
            yield Problem(
                f"profile {profile.name}: {tensor.name} has no shapes",
                f"give min, opt and max for {list(tensor.shape)}",
            )
    yield from _relation_problems(inputs, profile)


def _shape_problems(tensor: TensorSpec, profile: ProfileSpec) -> Iterable[Problem]:
    where = f"profile {profile.name}: {tensor.name}"
    shapes = profile.shapes[tensor.name]
    if any(len(shape) != len(tensor.shape) for shape in shapes):
        yield Problem(
            f"{where} has {len(tensor.shape)} dimensions, the profile gives {_ranks(shapes)}",
            f"give shapes like {list(tensor.shape)}",
        )
        return
    for axis, dim in enumerate(tensor.shape):
        low, opt, high = (shape[axis] for shape in shapes)
        if isinstance(dim, int):
            if {low, opt, high} != {dim}:
                yield Problem(
                    f"{where} is {dim} in dimension {axis}, the profile gives {low}, {opt}, {high}",
                    f"give {dim} three times: the graph has it fixed",
                )
        elif not 1 <= low <= opt <= high:
            yield Problem(
                f"{where} has {low}, {opt}, {high} in dimension {axis} ({dim})",
                "give 1 <= min <= opt <= max",
            )


def _ranks(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(str(len(shape)) for shape in shapes)


def _relation_problems(inputs: Mapping[str, TensorSpec], profile: ProfileSpec) -> Iterable[Problem]:
    """Inputs that differ in a symbol they share."""
    first: dict[tuple[str, int], tuple[str, int]] = {}
    reported = set()
    for name, shapes in profile.shapes.items():
        dims = inputs[name].shape if name in inputs else ()
        for which, shape in enumerate(shapes):
            if len(shape) != len(dims):
                continue
            for dim, value in zip(dims, shape, strict=True):
                if not isinstance(dim, str):
                    continue
                other, expected = first.setdefault((dim, which), (name, value))
                if value != expected and (name, dim) not in reported:
                    reported.add((name, dim))
                    yield Problem(
                        f"profile {profile.name}: {dim} is {value} in {name} but {expected} in "
                        f"{other} ({_WORDS[which]})",
                        f"give {dim} one value: both inputs are of the same call",
                    )
