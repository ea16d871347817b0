"""The same answers from eager PyTorch: stock transformers models and the Fuser's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.knowledge_pair.by_text import BY_TEXT
from benchmarks.knowledge_pair.compiled import MAX_NEW_TOKENS
from benchmarks.knowledge_pair.conditions import Condition, FuserName
from benchmarks.knowledge_pair.facts import Fact, strangers
from benchmarks.knowledge_pair.paths import Parts
from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model
from c2c_export.reading.tokenizers import load_tokenizer
from c2c_export.yardstick.eager import Caches, ReceiverChain, clean_caches


class EagerPair:
    """Both models with the tokenizers of their own, and every Fuser, in float32."""

    def __init__(self, parts: Parts, fusers: Mapping[FuserName, Path]) -> None:
        self._receiver, self._receiver_words = _load(parts.receiver)
        self._sharer, self._sharer_words = _load(parts.sharer)
        self._fusers = {
            name: read_fuser(path).load_linked_layers() for name, path in fusers.items()
        }
        self._lent: dict[str, Caches] = {}

    def answers(self, facts: Sequence[Fact], condition: Condition) -> list[str]:
        """The answer to each fact's prompt, as text."""
        prompts = [condition.prompt_of(fact) for fact in facts]
        if condition.mode == "t2t":
            messages = self.sharer_answers(facts)
            prompts = [str(BY_TEXT.told(*told)) for told in zip(prompts, messages, strict=True)]
        lenders = strangers(facts) if condition.lent == "stranger" else facts
        return [
            self._answer(condition, prompt, lender.question)
            for prompt, lender in zip(prompts, lenders, strict=True)
        ]

    def sharer_answers(self, facts: Sequence[Fact]) -> list[str]:
        """What the Sharer itself answers to the questions."""
        answers = []
        for fact in facts:
            with torch.no_grad():
                ids = torch.tensor([self._sharer_words.encode(fact.question)])
                best = self._sharer(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax()
            answers.append(str(self._sharer_words.decode([int(best)])))
        return answers

    def _answer(self, condition: Condition, prompt: str, lent_question: str) -> str:
        ids = self._receiver_words.encode(prompt)
        chain = ReceiverChain(self._receiver, [self._fusers[condition.fuser]])
        if condition.mode == "c2c":
            chain.append(ids[:-1], [self._caches_of(lent_question)], mask=1)
            ids = ids[-1:]
        answer, _ = chain.greedy(ids, MAX_NEW_TOKENS)
        end = self._receiver_words.eos_token_id
        if end in answer:
            answer = answer[: answer.index(end)]
        return str(self._receiver_words.decode(answer))

    def _caches_of(self, question: str) -> Caches:
        """The Sharer's caches, which no condition changes, so they are computed once."""
        if question not in self._lent:
            ids = self._sharer_words.encode(question)
            self._lent[question] = clean_caches(self._sharer, ids)
        return self._lent[question]


def _load(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(directory)
    assert tokenizer is not None
    return load_model(resolve_model(str(directory))), tokenizer
