"""The two frozen models, in bfloat16, and what they make of the questions.

Questions of one shape run together, so nothing is padded. A question's caches never change; each is
computed when it is first drawn, and kept.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.demo_fuser.questions import Question, Shape
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import ModelSource

IGNORED = -100  # what cross entropy leaves out
_CHUNK = 64  # questions that run through a model together


def load_frozen(source: ModelSource) -> PreTrainedModel:
    """A model in bfloat16, which CPUs with its instructions multiply several times faster."""
    model = load_model(source).bfloat16().eval().requires_grad_(False)
    # The backward pass of the fused attention is ten times slower where a length is odd.
    model.set_attn_implementation("eager")
    return model


@dataclass
class Caches:
    """One model's caches of questions of one shape.

    ``ids``: [questions, tokens]. ``positions``: one a token, with the gaps that the other model's tokens
    leave. ``first``: the first token whose cache is kept, negative from the end; all before it are read and
    forgotten.
    """

    model: PreTrainedModel
    ids: Tensor
    positions: Tensor
    first: int
    kept: Tensor | None = None
    is_kept: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.is_kept = torch.zeros(len(self.ids), dtype=torch.bool)

    def of(self, rows: Tensor) -> Tensor:
        """Those of some questions, [rows, layers, 2, kv_heads, kept tokens, head_dim], key before value."""
        missing = rows[~self.is_kept[rows]].unique()
        for part in missing.split(_CHUNK) if len(missing) else ():
            found = self._run(self.ids[part])
            if self.kept is None:
                self.kept = found.new_empty(len(self.ids), *found.shape[1:])
            self.kept[part] = found
            self.is_kept[part] = True
        assert self.kept is not None
        return self.kept[rows]

    def _run(self, ids: Tensor) -> Tensor:
        cache = DynamicCache()
        # What all questions begin with is run once.
        for layer, cached in enumerate(self._beginning.layers):
            keys, values = (x.expand(len(ids), -1, -1, -1) for x in (cached.keys, cached.values))
            cache.update(keys, values, layer)
        self._forward(ids, cache, self._num_common, len(self.positions))
        return torch.stack(
            [
                torch.stack([x[:, :, self.first :] for x in (cached.keys, cached.values)], 1)
                for cached in cache.layers
            ],
            1,
        )

    @cached_property
    def _num_common(self) -> int:
        """Tokens that all questions begin with, one less at least than they have."""
        is_common = (self.ids == self.ids[0]).all(0)[:-1]
        return int(is_common.long().cumprod(0).sum())

    @cached_property
    def _beginning(self) -> DynamicCache:
        cache = DynamicCache()
        if self._num_common:
            self._forward(self.ids[:1], cache, 0, self._num_common)
        return cache

    def _forward(self, ids: Tensor, cache: DynamicCache, start: int, end: int) -> None:
        with torch.no_grad():
            self.model.model(
                input_ids=ids[:, start:end],
                position_ids=self.positions[None, start:end].expand(len(ids), -1),
                cache=cache,
                use_cache=True,
            )


@dataclass(frozen=True)
class Bucket:
    """All questions of one shape, and both models' caches of them: the Receiver's of all sections but the
    last, the Sharer's of the ``num_fused`` tokens of the fused one."""

    questions: tuple[Question, ...]
    receiver: Caches
    sharer: Caches
    num_fused: int

    @classmethod
    def all_of(
        cls, questions: Sequence[Question], receiver: PreTrainedModel, sharer: PreTrainedModel
    ) -> list[Bucket]:
        """A bucket a shape, in an order that depends on nothing else."""
        by_shape: dict[Shape, list[Question]] = defaultdict(list)
        for question in questions:
            by_shape[question.shape].append(question)
        return [cls._of(found, receiver, sharer) for _, found in sorted(by_shape.items())]

    @classmethod
    def _of(
        cls, questions: Sequence[Question], receiver: PreTrainedModel, sharer: PreTrainedModel
    ) -> Bucket:
        read = [question.sections[:-1] for question in questions]
        starts = list(accumulate((section.span for section in read[0][:-1]), initial=0))
        num_fused = len(read[0][-1].receiver_ids)

        def caches(
            model: PreTrainedModel, sections: Sequence[Sequence[Sequence[int]]], first: int
        ) -> Caches:
            ids = torch.tensor([[i for section in one for i in section] for one in sections])
            lengths = [len(section) for section in sections[0]]
            parts = [torch.arange(n) + start for n, start in zip(lengths, starts, strict=True)]
            return Caches(model, ids, torch.cat(parts), first)

        return cls(
            tuple(questions),
            caches(receiver, [[s.receiver_ids for s in one] for one in read], 0),
            caches(sharer, [[s.sharer_ids[0] for s in one] for one in read], -num_fused),
            num_fused,
        )

    @property
    def answer_position(self) -> int:
        """Where the last section begins."""
        return sum(section.span for section in self.questions[0].sections[:-1])

    def answers(self, rows: Tensor, draw: random.Random | None) -> tuple[Tensor, Tensor]:
        """What the Receiver reads behind the fused section, and what it is to say, both [rows, tokens]:
        the rest of the prompt with one answer, drawn among the glosses (None: the first). Positions that
        say nothing of the answer hold ``IGNORED``."""
        read, said = [], []
        for row in rows.tolist():
            question = self.questions[row]
            rest = question.sections[-1].receiver_ids
            answer = draw.choice(question.answers) if draw else question.answers[0]
            read.append([*rest, *answer[:-1]])
            said.append([IGNORED] * (len(rest) - 1) + list(answer))
        width = max(map(len, read))
        return (
            torch.tensor([ids + [0] * (width - len(ids)) for ids in read]),
            torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in said]),
        )
