"""The two frozen models, in bfloat16, and what they make of the questions.

Questions of one length run together, so nothing is padded. A question's caches never change; each is
computed when it is first drawn, and kept.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.demo_fuser.questions import Question
from c2c_export.checkpoints import ModelSource, load_model

IGNORED = -100  # what cross entropy leaves out
_CHUNK = 64  # questions that run through a model together


def load_frozen(source: ModelSource) -> PreTrainedModel:
    """A model in bfloat16, which CPUs with its instructions multiply several times faster."""
    model = load_model(source).bfloat16().eval().requires_grad_(False)
    model.set_attn_implementation("sdpa")
    return model


@dataclass
class Caches:
    """Questions of one length, and one model's caches of them: [questions, layers, 2, kv_heads, tokens,
    head_dim], key before value."""

    model: PreTrainedModel
    ids: Tensor
    kept: Tensor | None = None
    is_kept: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.is_kept = torch.zeros(len(self.ids), dtype=torch.bool)

    def of(self, rows: Tensor) -> Tensor:
        """Those of some questions, [rows, layers, 2, kv_heads, tokens, head_dim]."""
        missing = rows[~self.is_kept[rows]].unique()
        for part in missing.split(_CHUNK) if len(missing) else ():
            cache = DynamicCache()
            with torch.no_grad():
                self.model.model(input_ids=self.ids[part], cache=cache, use_cache=True)
            found = torch.stack([torch.stack([x.keys, x.values], 1) for x in cache.layers], 1)
            if self.kept is None:
                self.kept = found.new_empty(len(self.ids), *found.shape[1:])
            self.kept[part] = found
            self.is_kept[part] = True
        assert self.kept is not None
        return self.kept[rows]


@dataclass(frozen=True)
class Bucket:
    """All questions of one length, and both models' caches of them."""

    questions: tuple[Question, ...]
    receiver: Caches
    sharer: Caches

    @classmethod
    def all_of(
        cls, questions: Sequence[Question], receiver: PreTrainedModel, sharer: PreTrainedModel
    ) -> list[Bucket]:
        """A bucket a length, the shortest first."""
        by_length: dict[int, list[Question]] = defaultdict(list)
        for question in questions:
            by_length[len(question.receiver_ids)].append(question)
        return [
            cls(
                tuple(found),
                Caches(receiver, torch.tensor([question.receiver_ids for question in found])),
                Caches(sharer, torch.tensor([question.sharer_ids for question in found])),
            )
            for _, found in sorted(by_length.items())
        ]

    def answers(self, rows: Tensor, draw: random.Random | None) -> tuple[Tensor, Tensor]:
        """What the Receiver reads behind the fused section, and what it is to say, both [rows, tokens]:
        the rest of the prompt with one answer, drawn among the glosses (None: the first). Positions that
        say nothing of the answer hold ``IGNORED``."""
        read, said = [], []
        for row in rows.tolist():
            question = self.questions[row]
            answer = draw.choice(question.answers) if draw else question.answers[0]
            read.append([*question.rest, *answer[:-1]])
            said.append([IGNORED] * (len(question.rest) - 1) + list(answer))
        width = max(map(len, read))
        return (
            torch.tensor([ids + [0] * (width - len(ids)) for ids in read]),
            torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in said]),
        )
