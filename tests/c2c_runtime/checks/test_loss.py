"""The loss of few bits: what is measured equals what all logits would say, and bounds decide."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from c2c_runtime.bundle.manifest import LossBounds, LossSpec
from c2c_runtime.checks.loss import LossReference, check_loss, measure_loss, sampled_ids
from c2c_runtime.errors import BundleError

NUM_TOKENS = 9


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def reference_of(logits: np.ndarray, ids: np.ndarray) -> LossReference:
    top = np.argsort(-logits, axis=1)[:, :64].astype(np.int32)
    sample = sampled_ids(logits.shape[1])
    return LossReference(
        token_ids=ids,
        log_sum_exp=np.log(np.exp(logits.astype(np.float64)).sum(axis=1)),
        best_ids=logits.argmax(axis=1).astype(np.int32),
        top_ids=top,
        top_logits=np.take_along_axis(logits, top, axis=1),
        next_logits=logits[np.arange(NUM_TOKENS - 1), ids[1:]],
        sampled_ids=sample,
        sampled_logits=logits[:, sample],
    )


class _Session:
    """Its Receiver answers with the rows of ``logits``, one a step."""

    def __init__(self, logits: np.ndarray) -> None:
        self._rows = iter(logits)
        self.fed: list[int] = []

    def conversation(self) -> _Session:
        return self

    def decode(self, ids: list[int]) -> SimpleNamespace:
        self.fed += ids
        row = next(self._rows)
        return SimpleNamespace(numpy=lambda: row)


@pytest.fixture(params=[50, 3000])
def logits(request):
    """[2, tokens, vocabulary]: of fp32, and of few bits."""
    rng = np.random.default_rng(request.param)
    full = 3 * rng.standard_normal((NUM_TOKENS, request.param))
    return np.stack([full, full + 0.1 * rng.standard_normal(full.shape)]).astype(np.float32)


def test_a_loss_is_what_all_logits_say(tmp_path, logits):
    full, few = logits
    ids = np.random.default_rng(1).integers(0, full.shape[1], NUM_TOKENS).astype(np.int32)
    reference_of(full, ids).save(tmp_path / "loss.npz")
    session = _Session(few)
    loss = measure_loss(session, tmp_path / "loss.npz")
    assert session.fed == ids.tolist()
    wanted, found = (softmax(rows.astype(np.float64)) for rows in (full, few))
    places = np.arange(NUM_TOKENS - 1)
    perplexities = [np.exp(-np.log(p[places, ids[1:]]).mean()) for p in (wanted, found)]
    assert [loss.perplexity_fp32, loss.perplexity] == pytest.approx(perplexities, rel=1e-4)
    assert loss.perplexity_ratio == pytest.approx(perplexities[1] / perplexities[0], rel=1e-4)
    agreement = (full.argmax(axis=1) == few.argmax(axis=1)).mean()
    assert loss.greedy_agreement == pytest.approx(agreement, rel=1e-5)
    divergence = (wanted * np.log(wanted / found)).sum(axis=1).mean()
    if full.shape[1] <= 64:
        assert loss.kl_divergence == pytest.approx(divergence, rel=1e-4)
    else:  # what 64 tokens and the rest say of it is less
        assert 0.2 * divergence < loss.kl_divergence < divergence
    lengths = np.linalg.norm(full, axis=1) * np.linalg.norm(few, axis=1)
    cosines = (full * few).sum(axis=1) / lengths
    assert loss.mean_cosine == pytest.approx(cosines.mean(), abs=2e-3)
    assert loss.least_cosine == pytest.approx(cosines.min(), abs=4e-3)


def test_equal_logits_lose_nothing(tmp_path, logits):
    ids = np.arange(NUM_TOKENS, dtype=np.int32)
    reference_of(logits[0], ids).save(tmp_path / "loss.npz")
    loss = measure_loss(_Session(logits[0]), tmp_path / "loss.npz")
    assert (loss.greedy_agreement, loss.mean_cosine) == pytest.approx((1.0, 1.0))
    assert loss.kl_divergence == pytest.approx(0.0, abs=1e-6)
    assert loss.perplexity_ratio == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "failed"),
    [
        (lambda rows: rows, []),
        (lambda rows: 3 * rows, ["divergence"]),  # neither cosine nor best token shows it
        (lambda rows: -rows, ["cosine", "best token", "divergence"]),
        (lambda rows: rows * np.nan, ["cosine", "best token", "divergence"]),
    ],
)
def test_bounds_say_what_is_too_much(tmp_path, logits, spoil, failed):
    full, few = logits
    reference_of(full, np.arange(NUM_TOKENS, dtype=np.int32)).save(tmp_path / "loss.npz")
    loss = measure_loss(_Session(spoil(few)), tmp_path / "loss.npz")
    spec = LossSpec("loss.npz", True, LossBounds(0.95, 0.6, 0.2), loss)
    found = [item.name for item in check_loss(loss, spec) if not item.ok]
    assert len(found) == len(failed)
    assert all(word in name for word, name in zip(failed, found, strict=True))


def test_another_file_is_no_reference(tmp_path):
    np.savez(tmp_path / "loss.npz", logits=np.zeros(3))
    with pytest.raises(BundleError, match="no reference to measure a loss against"):
        measure_loss(_Session(np.zeros((1, 3))), tmp_path / "loss.npz")
