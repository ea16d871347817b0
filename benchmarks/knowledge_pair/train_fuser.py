"""Training of a Fuser between two frozen models: next-token loss on the Receiver's answer.

All prompts have one length and neither model changes, so their caches are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.fuser_training import FuserInTraining
from benchmarks.knowledge_pair.facts import Fact
from benchmarks.training import answer_loss, train
from c2c_export.fusers.fuser_checkpoint import LinkedLayers
from c2c_export.reading.model_source import resolve_model

Cache = list[tuple[Tensor, Tensor]]  # (key, value) a layer, [batch, kv_heads, tokens, head_dim]


@dataclass(frozen=True)
class Questions:
    """What the Fuser trains on, a row a fact: both models' caches of the question, the rest of the
    prompt [rows, tokens] and the answer [rows, tokens], in Receiver tokens."""

    receiver: Cache
    sharer: Cache
    rest: Tensor
    answers: Tensor

    @classmethod
    def of(
        cls,
        facts: Sequence[Fact],
        receiver: tuple[PreTrainedModel, PreTrainedTokenizerFast],
        sharer: tuple[PreTrainedModel, PreTrainedTokenizerFast],
    ) -> Questions:
        """Run both models over all questions. Each comes with its tokenizer."""
        tokenizer = receiver[1]
        questions = tokenizer([fact.question for fact in facts])["input_ids"]
        prompts = tokenizer([fact.prompt for fact in facts])["input_ids"]
        answers = [[*tokenizer.encode(fact.city), tokenizer.eos_token_id] for fact in facts]
        return cls(
            _caches(*receiver, facts),
            _caches(*sharer, facts),
            torch.tensor(prompts)[:, len(questions[0]) :],
            torch.tensor(answers),
        )

    def __len__(self) -> int:
        return len(self.answers)


def _caches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact]
) -> Cache:
    ids = torch.tensor(tokenizer([fact.question for fact in facts])["input_ids"])
    cache = DynamicCache()
    with torch.no_grad():
        model.model(input_ids=ids, cache=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def train_fuser(
    questions: Questions,
    receiver: PreTrainedModel,
    paths: tuple[Path, Path],
    directory: Path,
    *,
    num_steps: int,
    shuffled: bool = False,
    batch_size: int = 128,
    hidden_dim: int = 128,
) -> None:
    """Write a trained Fuser in the published layout, float16, every gate open.

    ``paths``: the checkpoints of Receiver and Sharer. ``shuffled``: the control, for which each
    example comes with the Sharer's cache of another.
    """
    sources = [resolve_model(str(path)) for path in paths]
    fuser = FuserInTraining.begin(*sources, directory, hidden_dim=hidden_dim, seed=3)

    def loss() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(questions))[:batch_size]
        lent = rows[torch.randperm(len(rows))] if shuffled else rows
        return answer_loss(
            _logits(questions, receiver, fuser.layers, rows, lent), questions.answers[rows]
        )

    what = "control Fuser" if shuffled else "Fuser"
    train(what, fuser.parameters(), loss, num_steps=num_steps, peak_rate=1e-3)
    fuser.save()


def _logits(
    questions: Questions,
    receiver: PreTrainedModel,
    linked: LinkedLayers,
    rows: Tensor,
    lent: Tensor,
) -> Tensor:
    """The Receiver's logits for the answers of ``rows`` over its cache, into which the Sharer's
    cache of ``lent`` is fused. [rows, answer tokens, vocab_size]."""
    cache = DynamicCache()
    for target, (key, value) in enumerate(questions.receiver):
        source, layer = linked[target]
        sharer_key, sharer_value = questions.sharer[source]
        fused = layer(sharer_key[lent], sharer_value[lent], key[rows], value[rows])
        cache.update(*fused, target)
    answers = questions.answers[rows]
    ids = torch.cat([questions.rest[rows], answers[:, :-1]], dim=1)
    output = receiver(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=answers.shape[1])
    logits: Tensor = output.logits
    return logits
