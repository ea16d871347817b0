"""What counts as token ids of a vocabulary: the one place that says so."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

from c2c_runtime.errors import UsageError


def token_ids(ids: Sequence[Any]) -> tuple[int, ...]:
    """Ids as plain integers, those of numpy included. Raises ``UsageError`` for what is no integer."""
    try:
        len(ids)
        return tuple(map(index, ids))
    except TypeError as error:
        raise UsageError(
            f"token ids are integers: {error}", "give what a tokenizer made, such as [5, 6, 7]"
        ) from error


def check_ids(ids: Sequence[int], vocab_size: int, owner: str = "Receiver") -> None:
    """Raise ``UsageError`` if an id is no integer, negative, or not below ``vocab_size``.
    ``owner``: whose vocabulary it is."""
    for id in token_ids(ids):
        if not 0 <= id < vocab_size:
            raise UsageError(
                f"token id {id} is not in the {owner}'s vocabulary of {vocab_size} tokens",
                f"give ids that the {owner}'s tokenizer made, from 0 to {vocab_size - 1}",
            )
