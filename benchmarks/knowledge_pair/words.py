"""Tokenizers of whole words. The two models number the same words differently, so that a prompt
reaches the Sharer only through the alignment table."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.knowledge_pair.facts import CITIES, Fact

_SPECIAL = ("<pad>", "<eos>", "<unk>")
_SENTENCE_WORDS = ("Where", "does", "live", "?", "In", "lives", "in", ".")


def make_tokenizer(facts: Sequence[Fact], seed: int) -> PreTrainedTokenizerFast:
    """One token a word, in an order that ``seed`` shuffles; special tokens come first."""
    words = [*_SENTENCE_WORDS, *CITIES, *(fact.name for fact in facts)]
    random.Random(seed).shuffle(words)
    vocab = {word: index for index, word in enumerate([*_SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
