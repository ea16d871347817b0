"""What weights in few bits lose: the Receiver alone, token by token, against eager PyTorch in fp32.

The bundle holds what eager PyTorch computed for a text (``LossReference``); this runs the same ids
through the Receiver's graph in decode steps and compares. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.manifest import Loss, LossSpec
from c2c_runtime.checks.verification import Comparison, load_expected
from c2c_runtime.errors import BundleError

NUM_TOP = 64
NUM_SAMPLED = 1024
_NO_CHANCE = 1e-12  # probabilities below count as this one


@dataclass(frozen=True)
class LossReference:
    """What eager PyTorch in fp32 computed for n tokens; all of its logits would take 100 MB.

    ``token_ids`` int32 [n]. Of the logits after each of them: ``log_sum_exp`` float64 [n] over the
    vocabulary, ``best_ids`` int32 [n], ``top_ids`` int32 and ``top_logits`` float32 [n, 64] of the
    largest, ``next_logits`` float32 [n - 1] of the token that follows, and ``sampled_logits`` float32
    [n, 1024] of ``sampled_ids`` int32 [1024], spread evenly over the vocabulary. A vocabulary of fewer
    tokens has as many.
    """

    token_ids: np.ndarray
    log_sum_exp: np.ndarray
    best_ids: np.ndarray
    top_ids: np.ndarray
    top_logits: np.ndarray
    next_logits: np.ndarray
    sampled_ids: np.ndarray
    sampled_logits: np.ndarray

    def save(self, path: Path) -> None:
        """As an ``.npz``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> LossReference:
        """Raises ``BundleError`` if the file is not what ``save`` writes."""
        arrays = load_expected(path)
        if sorted(arrays) != sorted(field.name for field in fields(cls)):
            raise BundleError.of(
                f"{path} is no reference to measure a loss against", "build the bundle again"
            )
        return cls(**arrays)


def sampled_ids(vocab_size: int) -> np.ndarray:
    """Up to 1,024 ids, spread evenly over the vocabulary."""
    return np.linspace(0, vocab_size - 1, min(NUM_SAMPLED, vocab_size)).astype(np.int32)


def measure_loss(session: Session, path: Path) -> Loss:
    """Run the tokens of the reference at ``path`` through the session's Receiver, one a step."""
    conversation = session.conversation()
    return loss_of(
        lambda token_id: conversation.decode([token_id]).numpy(), LossReference.load(path)
    )


def loss_of(step: Callable[[int], np.ndarray], reference: LossReference) -> Loss:
    """What a model loses. ``step``: its logits [vocab_size] after one more token."""
    rows = [
        _measure_token(step(int(token_id)), reference, place)
        for place, token_id in enumerate(reference.token_ids)
    ]
    surprise = -float(np.mean([row.next_log_prob for row in rows[:-1]]))
    surprise_fp32 = -float(np.mean(reference.next_logits - reference.log_sum_exp[:-1]))
    cosines = np.array([row.cosine for row in rows])
    return Loss(
        num_tokens=len(rows),
        perplexity=_rounded(float(np.exp(surprise))),
        perplexity_fp32=_rounded(float(np.exp(surprise_fp32))),
        greedy_agreement=_rounded(float(np.mean([row.is_best_equal for row in rows]))),
        kl_divergence=_rounded(float(np.mean([row.kl_divergence for row in rows]))),
        mean_cosine=_rounded(cosines.mean()),
        least_cosine=_rounded(cosines.min()),
    )


def check_loss(loss: Loss, spec: LossSpec) -> Iterator[Comparison]:
    """The loss against the bounds that the bundle sets."""
    of, bounds = f"of {loss.num_tokens} tokens", spec.bounds
    distance = 1.0 - loss.mean_cosine
    name = f"few bits: mean cosine of logits {of}"
    least = bounds.min_mean_cosine
    yield Comparison(name, distance, distance, 0.0, "cosine", loss.mean_cosine, least)
    share = loss.greedy_agreement
    wrong = round((1.0 - share) * loss.num_tokens, 0)
    name = f"few bits: best token {of}"
    yield Comparison(name, wrong, wrong, 0.0, "agreement", share, bounds.min_greedy_agreement)
    found = loss.kl_divergence
    name = f"few bits: mean KL divergence {of}"
    yield Comparison(name, found, found, bounds.max_kl_divergence)


def loss_as_json(loss: Loss) -> dict[str, Any]:
    """As plain types, with the ratio of the perplexities."""
    return asdict(loss) | {"perplexity_ratio": _rounded(loss.perplexity_ratio)}


@dataclass(frozen=True)
class _TokenLoss:
    next_log_prob: float  # NaN after the last token
    is_best_equal: bool
    kl_divergence: float
    cosine: float


def _measure_token(logits: np.ndarray, reference: LossReference, place: int) -> _TokenLoss:
    """``logits`` [vocab_size] after token ``place``."""
    found = logits.astype(np.float64)
    largest = found.max()
    log_sum_exp = largest + np.log(np.exp(found - largest).sum())
    is_last = place + 1 == len(reference.token_ids)
    next_logit = np.nan if is_last else found[reference.token_ids[place + 1]]
    wanted_top = np.exp(reference.top_logits[place] - reference.log_sum_exp[place])
    found_top = np.exp(found[reference.top_ids[place]] - log_sum_exp)
    wanted_row = reference.sampled_logits[place].astype(np.float64)
    found_row = found[reference.sampled_ids]
    lengths = np.linalg.norm(wanted_row) * np.linalg.norm(found_row)
    return _TokenLoss(
        float(next_logit - log_sum_exp),
        bool(found.argmax() == reference.best_ids[place]),
        _kl_divergence(_with_rest(wanted_top), _with_rest(found_top)),
        float(wanted_row @ found_row / lengths) if lengths else 0.0,
    )


def _with_rest(top: np.ndarray) -> np.ndarray:
    """Probabilities of some tokens, and that of all others as one."""
    return np.append(top, 1.0 - top.sum()).clip(_NO_CHANCE)


def _kl_divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    return float((wanted * np.log(wanted / found)).sum())


def _rounded(value: float) -> float:
    """Six digits: what is behind them differs from machine to machine."""
    return float(f"{value:.6g}")
