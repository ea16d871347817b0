"""How likely continuations of a prompt are: the prompt is read once, each continuation goes on from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import Section
from c2c_runtime.sections.token_ids import check_ids

LogProbs = tuple[float, ...]


class ContinuationScorer:
    """A prompt in the caches of ``conversation``, and what may follow it.

    Reads the prompt when it is made; raises what ``Conversation.prefill`` raises.
    """

    def __init__(self, conversation: Conversation, sections: Sequence[Section]) -> None:
        self._conversation = conversation
        self._first = log_softmax(conversation.prefill(sections, self).numpy())

    def score(self, ids: Sequence[int]) -> LogProbs:
        """Natural log-probability of each of ``ids`` after the prompt and the ids before it.

        The caches are at the prompt's end again afterwards, also after an error.
        Raises ``UsageError`` for ids that are not the Receiver's.
        """
        check_ids(ids, len(self._first))
        if len(ids) == 0:
            raise UsageError("a continuation without tokens has no likelihood", "give some text")
        found = [float(self._first[ids[0]])]
        cache = self._conversation.receiver
        prompt_end = cache.length
        try:
            for previous, token_id in pairwise(ids):
                logits = self._conversation.decode([previous], self)
                found.append(float(log_softmax(logits.numpy())[token_id]))
        finally:
            self._conversation.rewind(cache.length - prompt_end, self)
        return tuple(found)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the probabilities that ``logits`` [vocab_size] stand for, float64."""
    row = logits.astype(np.float64)
    row -= row.max()
    shifted: np.ndarray = row - np.log(np.exp(row).sum())
    return shifted
