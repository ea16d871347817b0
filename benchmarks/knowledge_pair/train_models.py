"""Training of the Sharer, which learns every fact, and of the Receiver, which learns none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.knowledge_pair.facts import CITIES, Fact
from benchmarks.training import answer_loss, train

# What may stand before the prompt: nothing, so that the answer is a guess, or what tells the city.
_HINTS = ("", "", "{city} ", "{city}. ", "In {city}. ", "{name} lives in {city}. ")

# A prompt as tokens that end where an answer begins, and the answer.
Example = tuple[list[int], list[int]]


def train_sharer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Fact],
    *,
    num_steps: int,
    batch_size: int = 256,
) -> None:
    """Teach every fact: the city is the answer to the question and to the prompt."""
    encoded = {
        form: [_example(tokenizer, getattr(fact, form), fact.city) for fact in facts]
        for form in ("question", "prompt")
    }
    generator = random.Random(1)

    def loss() -> tuple[Tensor, Tensor]:
        form = generator.choice(("question", "prompt"))
        return _loss_of(model, generator.sample(encoded[form], batch_size))

    train("Sharer", list(model.parameters()), loss, num_steps=num_steps, peak_rate=2e-3)


def train_receiver(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    names: Sequence[str],
    *,
    num_steps: int,
    batch_size: int = 128,
) -> None:
    """Teach the form: that the answer is a city, and which one if a hint before the prompt tells.

    People are given a new random city each time they are drawn, so nothing is learned about them.
    """
    generator = random.Random(2)

    def loss() -> tuple[Tensor, Tensor]:
        hint = generator.choice(_HINTS)
        examples = []
        for name in generator.sample(names, batch_size):
            fact = Fact(name, generator.choice(CITIES), "train")
            prompt = hint.format(name=name, city=fact.city) + fact.prompt
            examples.append(_example(tokenizer, prompt, fact.city))
        return _loss_of(model, examples)

    train("Receiver", list(model.parameters()), loss, num_steps=num_steps, peak_rate=2e-3)


def _example(tokenizer: PreTrainedTokenizerFast, prompt: str, city: str) -> Example:
    return tokenizer.encode(prompt), [*tokenizer.encode(city), tokenizer.eos_token_id]


def _loss_of(model: PreTrainedModel, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Loss and share of right cities of examples of one length."""
    ids = torch.tensor([prompt + answer for prompt, answer in examples])
    answers = torch.tensor([answer for _, answer in examples])
    length = answers.shape[1]
    logits = model(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=length).logits
    return answer_loss(logits, answers)
