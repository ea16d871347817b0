"""LogitArray -> the next token id. Order and definitions are those of transformers' generate.

repetition penalty -> temperature -> top_k -> top_p -> draw. Temperature 0 is greedy: the penalty,
then the first of the highest logits. So is one so small that float32 cannot hold the highest logit
divided by it: no other token has a chance then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from c2c_runtime.arguments import check_count, check_number
from c2c_runtime.chain.logits import Logits
from c2c_runtime.errors import C2CError

LogitArray = npt.NDArray[np.float32]
TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)
_FIRST_CANDIDATES = 1024  # how many of the most likely tokens top_p looks at first


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose the next token.

    ``temperature``: 0 is greedy. ``top_k``: keep the k most likely tokens and those as likely as
    the last of them, 0 keeps all. ``top_p``: keep the fewest most likely tokens that add up to p,
    the one that crosses p included. ``repetition_penalty``: above 1 makes tokens of the prompt
    and the answer less likely, below 1 more. ``seed``: None draws differently every time.

    Raises ``UsageError`` that names the option, its value and what is allowed.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature)
        check_count("top_k", self.top_k, meaning="0: no limit")
        check_number("top_p", self.top_p, 0.0, 1.0, meaning="1: no limit")
        check_number("repetition_penalty", self.repetition_penalty, is_open=True, meaning="1: none")
        check_count("seed", self.seed, or_none=True)

    @property
    def is_greedy(self) -> bool:
        """Whether the result does not depend on chance: temperature 0, and what float32 rounds to it."""
        return float(_float32(self.temperature)) == 0.0


class Sampler:
    """Draws token ids. Two samplers with the same options and seed draw the same ids."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._random = np.random.default_rng(options.seed)
        self._num_needed = _num_needed(options)

    def next_id(self, logits: Logits | LogitArray, previous_ids: TokenIds = ()) -> int:
        """The next id, from logits ``[vocab]`` and all ids so far (prompt and answer).

        Of ``Logits`` no more is read than the options need. Raises ``C2CError`` if the logits hold
        NaN or nothing finite.
        """
        if isinstance(logits, Logits):
            found = logits.candidates(self._num_needed)
            if found is not None:
                ids, values = found
                return int(ids[self._choose(values)])
            logits = logits.numpy()
        return self._choose(_penalised(logits, previous_ids, self.options.repetition_penalty))

    def _choose(self, logits: LogitArray) -> int:
        """Index into ``logits`` of the chosen token."""
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise C2CError(
                f"the model's highest logit is {logits[best]}",
                "run `c2c-export verify` on the bundle; a build in fp32 tells whether the "
                "precision is the cause",
            )
        if self.options.is_greedy or not _is_divisible(logits[best], self.options.temperature):
            return best
        ids, kept = _kept(logits, self.options)
        cumulative = np.cumsum(_weights(kept))
        # Below the sum, also where the product is rounded: nothing without a chance is drawn.
        drawn = min(self._random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
        return int(ids[np.searchsorted(cumulative, drawn, side="right")])


def _num_needed(options: SamplingOptions) -> int:
    """How many of the largest logits decide; 0 if all do."""
    if options.repetition_penalty != 1.0:
        return 0
    return 1 if options.is_greedy else options.top_k


def filtered_logits(
    logits: LogitArray, previous_ids: TokenIds, options: SamplingOptions
) -> LogitArray:
    """The logits ``[vocab]`` that ``Sampler`` draws from: penalised, divided by the temperature,
    and -inf where top_k or top_p rule a token out. ``options.temperature`` must not be 0."""
    penalised = _penalised(logits, previous_ids, options.repetition_penalty)
    ids, kept = _kept(penalised, options)
    result = np.full(logits.shape, -np.inf, dtype=np.float32)
    result[ids] = kept
    return result


def _penalised(logits: LogitArray, previous_ids: TokenIds, penalty: float) -> LogitArray:
    """LogitArray of ids seen before made less likely, once each; a copy unless nothing changes."""
    if penalty == 1.0 or len(previous_ids) == 0:
        return logits
    penalty = min(max(penalty, _TINY), _HUGE)  # no zero and no infinity in float32
    seen = np.asarray(previous_ids, dtype=np.int64)
    seen = seen[(seen >= 0) & (seen < logits.shape[0])]
    result = logits.copy()
    scores = result[seen]
    with np.errstate(over="ignore"):
        changed = np.where(scores < 0, scores * penalty, scores / penalty)
    # What was finite stays so, and -inf, a token that is ruled out, stays ruled out.
    result[seen] = np.where(np.isfinite(scores), changed.clip(-_HUGE, _HUGE), scores)
    return result


def _kept(
    logits: LogitArray, options: SamplingOptions
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Ids that may be drawn, ascending, and their logits after temperature."""
    # The highest does not overflow, see ``_is_divisible``; others may become -inf.
    with np.errstate(over="ignore"):
        scores = logits / _float32(options.temperature)
    ids = np.arange(len(scores))
    if 0 < options.top_k < len(scores):
        ids = _at_least_kth(scores, options.top_k)
    scores = scores[ids]
    if options.top_p < 1.0:
        chosen = _nucleus(scores, options.top_p)
        ids, scores = ids[chosen], scores[chosen]
    return ids, scores


def _nucleus(scores: npt.NDArray[np.float32], top_p: float) -> npt.NDArray[np.intp]:
    """Indices kept by top_p, ascending.

    The rule: sort ascending, drop while the cumulative probability is at most 1 - p, never drop
    the last. Only the most likely tokens are sorted: the others go together as long as their sum
    is at most 1 - p. Of equal tokens on the edge the first ids stay (transformers leaves it open).
    """
    probabilities = _weights(scores)
    probabilities /= probabilities.sum()
    threshold = np.float32(1.0 - top_p)
    num_candidates = _FIRST_CANDIDATES
    while True:
        if num_candidates < len(scores):
            candidates = _at_least_kth(scores, num_candidates)
            rest = max(0.0, 1.0 - float(probabilities[candidates].sum()))
        else:
            candidates, rest = np.arange(len(scores)), 0.0
        if rest <= threshold:
            break
        num_candidates *= 8
    order = candidates[np.argsort(-scores[candidates], kind="stable")[::-1]]
    cumulative = (rest + np.cumsum(probabilities[order])).astype(np.float32)
    is_kept = cumulative > threshold
    is_kept[-1] = True
    return np.sort(order[is_kept])


def _at_least_kth(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    """Indices of the k highest scores and of those equal to the k-th, ascending."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= kth)


def _weights(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities up to a factor."""
    shifted = scores.astype(np.float64) - float(scores.max())
    return np.exp(shifted, out=shifted)


def _is_divisible(logit: np.float32, temperature: float) -> bool:
    """Whether float32 holds the logit after temperature."""
    with np.errstate(over="ignore"):
        return math.isfinite(logit / _float32(temperature))


def _float32(value: float) -> np.float32:
    """The nearest float32; of what is larger than all, the largest."""
    return np.float32(min(value, _HUGE))
