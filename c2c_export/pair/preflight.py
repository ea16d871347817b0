"""Whether Receiver, Sharers and Fusers fit together, decided from sizes before any weight is loaded.

Every problem is found in one go, so that one round of corrections is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.pair.asked import Alignment
from c2c_export.pair.published import published_with_shape
from c2c_runtime.bundle.manifest import Limits, ModelDims
from c2c_runtime.errors import Problem


@dataclass(frozen=True)
class TokenizerFacts:
    """What is known about the tokenizers of a pair before alignment tables are computed.

    ``receiver`` and ``sharers``: whether each model has one. ``same_ids``, one a Sharer: whether no
    id stands for different tokens on the two sides; None where a tokenizer is missing.
    ``num_receiver_ids``: one more than the largest id of a Receiver's token; None without its tokenizer.
    """

    receiver: bool
    sharers: tuple[bool, ...]
    same_ids: tuple[bool | None, ...]
    num_receiver_ids: int | None = None

    def reach_beyond(self, sharer: ModelDims) -> bool:
        """Whether a token of the Receiver has an id for which this Sharer has no embedding. Rows that pad
        the Receiver's own embeddings are nobody's tokens."""
        return self.num_receiver_ids is not None and self.num_receiver_ids > sharer.vocab_size


def check_pair(
    receiver: ModelDims,
    sharers: Sequence[ModelDims],
    fusers: Sequence[FuserCheckpoint],
    *,
    alignment: Alignment = "auto",
    tokenizers: TokenizerFacts | None = None,
    limits: Limits | None = None,
) -> list[Problem]:
    """Every reason why these do not make a pair. ``tokenizers=None``: nobody has one."""
    problems = list(_count_problems(sharers, fusers))
    for number, (sharer, fuser) in enumerate(zip(sharers, fusers, strict=False), start=1):
        problems += _layer_map_problems(receiver, sharer, fuser, number)
        problems += _shape_problems(receiver, sharer, fuser, number)
    facts = tokenizers or TokenizerFacts(False, (False,) * len(sharers), (None,) * len(sharers))
    problems += _alignment_problems(receiver, sharers, alignment, facts)
    if limits is not None:
        problems += check_limits(receiver, sharers, limits)
    return problems


def _count_problems(
    sharers: Sequence[ModelDims], fusers: Sequence[FuserCheckpoint]
) -> Iterator[Problem]:
    if not sharers:
        yield Problem("there is no Sharer", "name at least one: --sharer DIR --fuser DIR")
    elif len(sharers) != len(fusers):
        yield Problem(
            f"{len(sharers)} Sharer(s), but {len(fusers)} Fuser(s)",
            "give one --fuser for each --sharer, in the same order",
        )


def _layer_map_problems(
    receiver: ModelDims, sharer: ModelDims, fuser: FuserCheckpoint, number: int
) -> Iterator[Problem]:
    for side, layers, num_layers in (
        ("the Receiver", [layer for layer in fuser.links], receiver.num_layers),
        (f"Sharer {number}", [layer for layer, _ in fuser.links.values()], sharer.num_layers),
    ):
        beyond = sorted({layer for layer in layers if layer >= num_layers})
        if beyond:
            yield Problem(
                f"the layer map of {fuser.path} names layer {_join(beyond)} of {side}, "
                f"which has {num_layers} layers (0 to {num_layers - 1})",
                "this Fuser was trained for another model, or Receiver and Sharer are swapped: "
                "the Receiver comes first",
            )


def _shape_problems(
    receiver: ModelDims, sharer: ModelDims, fuser: FuserCheckpoint, number: int
) -> Iterator[Problem]:
    found = FuserShape(
        sharer.num_kv_heads, sharer.head_dim, receiver.num_kv_heads, receiver.head_dim
    )
    for shape in dict.fromkeys(spec.shape for spec in fuser.layers.values()):
        if shape == found:
            continue
        indices = [index for index, spec in fuser.layers.items() if spec.shape == shape]
        where = "" if len(indices) == len(fuser.layers) else f" (projector {_join(indices)})"
        yield Problem(
            f"the Fuser {fuser.path}{where} expects {shape}; Sharer {number} and the Receiver "
            f"are {found}",
            _models_for(shape),
        )


def _models_for(shape: FuserShape) -> str:
    matches = published_with_shape(shape)
    if not matches:
        return "give the models that this Fuser was trained with, the Receiver first"
    names = "; or ".join(f"Receiver {pair.receiver}, Sharer {pair.sharer}" for pair in matches)
    return f"published Fusers of these sizes join {names}"


def _alignment_problems(
    receiver: ModelDims, sharers: Sequence[ModelDims], alignment: Alignment, facts: TokenizerFacts
) -> Iterator[Problem]:
    for number, sharer in enumerate(sharers, start=1):
        has_both = facts.receiver and facts.sharers[number - 1]
        same_ids = facts.same_ids[number - 1] if has_both else None
        missing = " and ".join(
            side
            for side, there in (
                ("the Receiver", facts.receiver),
                (f"Sharer {number}", facts.sharers[number - 1]),
            )
            if not there
        )
        bring = f"put tokenizer.json beside the weights of {missing}"
        sizes = f"(vocabularies: Receiver {receiver.vocab_size}, Sharer {sharer.vocab_size})"
        if alignment in ("first", "longest"):
            if not has_both:
                yield Problem(
                    f"--alignment {alignment} needs tokenizers, and {missing} has none", bring
                )
        elif same_ids is False and alignment == "none":
            yield Problem(
                f"--alignment none, but the tokenizers of the Receiver and Sharer {number} give "
                f"one id different tokens {sizes}",
                "use --alignment longest, or auto",
            )
        elif same_ids and alignment == "none" and facts.reach_beyond(sharer):
            yield Problem(
                f"--alignment none, but tokens of the Receiver have ids beyond the vocabulary of Sharer "
                f"{number} {sizes}",
                "use --alignment longest, or auto",
            )
        elif same_ids is None and sharer.vocab_size < receiver.vocab_size:
            yield Problem(
                f"Receiver ids can be beyond the vocabulary of Sharer {number} {sizes}, and "
                f"without a tokenizer of {missing} they cannot be aligned",
                bring + " and use --alignment longest",
            )


def check_limits(
    receiver: ModelDims, sharers: Sequence[ModelDims], limits: Limits
) -> list[Problem]:
    """Capacities that contradict one another, or what the models were trained for."""
    problems = [
        Problem(f"--{name.replace('_', '-')} is {value}", "it must be 1 or more")
        for name, value in (
            ("max_seq_len", limits.max_seq_len),
            ("max_prompt_len", limits.max_prompt_len),
            ("max_batch_size", limits.max_batch_size),
        )
        if value < 1
    ]
    if limits.max_prompt_len > limits.max_seq_len:
        problems.append(
            Problem(
                f"--max-prompt-len {limits.max_prompt_len} is above "
                f"--max-seq-len {limits.max_seq_len}",
                f"use --max-prompt-len {limits.max_seq_len} or less",
            )
        )
    named = [("the Receiver", receiver)]
    named += [(f"Sharer {number}", dims) for number, dims in enumerate(sharers, start=1)]
    for side, dims in named:
        if dims.max_positions is not None and limits.max_seq_len > dims.max_positions:
            problems.append(
                Problem(
                    f"--max-seq-len {limits.max_seq_len} is above the {dims.max_positions} "
                    f"positions that {side} was trained for",
                    f"use --max-seq-len {dims.max_positions} or less",
                )
            )
    return problems


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
