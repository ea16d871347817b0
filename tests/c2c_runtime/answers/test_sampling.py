from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from c2c_runtime.answers.sampling import Sampler, SamplingOptions, filtered_logits
from c2c_runtime.errors import C2CError, UsageError


def reference(logits: np.ndarray, previous: list[int], options: SamplingOptions) -> np.ndarray:
    """What transformers' generate draws from."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.temperature not in (0.0, 1.0):
        processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1.0:
        processors.append(TopPLogitsWarper(options.top_p))
    scores = processors(torch.tensor([previous]), torch.from_numpy(logits.copy())[None])
    return scores[0].numpy()


def random_case(random: np.random.Generator, vocab_size: int):
    logits = random.normal(0, random.choice([0.5, 3.0, 10.0]), vocab_size).astype(np.float32)
    if random.random() < 0.3:
        logits = np.round(logits)  # ties
    previous = random.integers(0, vocab_size, random.integers(1, 40)).tolist()
    options = SamplingOptions(
        temperature=float(random.choice([0.3, 0.7, 1.0, 1.9])),
        top_k=int(random.choice([0, 1, 5, 50, vocab_size, 10 * vocab_size])),
        top_p=float(random.choice([1.0, 0.0, 0.1, 0.5, 0.9, 0.97])),
        repetition_penalty=float(random.choice([1.0, 1.3, 0.8])),
    )
    return logits, previous, options


@pytest.mark.parametrize("vocab_size", [3, 100, 5000])
def test_filtered_logits_are_those_of_transformers(vocab_size):
    random = np.random.default_rng(vocab_size)
    for _ in range(200):
        logits, previous, options = random_case(random, vocab_size)
        before = logits.copy()
        ours = filtered_logits(logits, previous, options)
        np.testing.assert_array_equal(logits, before)
        theirs = reference(logits, previous, options)
        if len(np.unique(logits)) < vocab_size:
            # Which of equal tokens top_p drops is left open by torch's sort.
            ours, theirs = np.sort(ours), np.sort(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_top_p_of_flat_logits_keeps_more_than_the_first_candidates():
    logits = np.random.default_rng(0).normal(0, 0.01, 20_000).astype(np.float32)
    options = SamplingOptions(temperature=1.0, top_p=0.9)
    kept = np.isfinite(filtered_logits(logits, [], options))
    expected = np.isfinite(reference(logits, [0], options))
    assert kept.sum() == pytest.approx(0.9 * 20_000, rel=0.01)
    assert np.count_nonzero(kept != expected) <= 2  # float32 sums of 20,000 terms


def test_the_token_that_crosses_p_is_kept():
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    kept = filtered_logits(logits, [], SamplingOptions(temperature=1.0, top_p=0.6))
    assert np.isfinite(kept).tolist() == [True, True, False]


def test_of_equal_tokens_the_first_is_kept():
    logits = np.array([1.0, 5.0, 5.0, 5.0], dtype=np.float32)
    kept = filtered_logits(logits, [], SamplingOptions(temperature=1.0, top_p=0.0))
    assert np.flatnonzero(np.isfinite(kept)).tolist() == [1]


def test_greedy_takes_the_first_of_equal_logits():
    sampler = Sampler(SamplingOptions())
    assert sampler.next_id(np.array([0.0, 2.0, 1.0, 2.0], dtype=np.float32)) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-30, 1e-37, 1e-38, 1e-40, 1e-46, 5e-324])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"top_k": 3}, {"repetition_penalty": 1.1}])
def test_a_tiny_temperature_is_greedy(temperature, shift, more):
    """transformers#11267, vllm#22180: logits overflow when they are divided by it."""
    logits = np.random.default_rng(0).normal(shift, 3, 424).astype(np.float32)
    logits[3] = -np.inf
    greedy = Sampler(SamplingOptions(**more)).next_id(logits, [1, 2])
    for seed in range(5):
        options = SamplingOptions(temperature=temperature, seed=seed, **more)
        assert Sampler(options).next_id(logits, [1, 2]) == greedy


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e30, 3e38, 1e39, 1e308])
def test_a_huge_temperature_draws_from_all_that_is_not_ruled_out(temperature):
    logits = np.array([1.0, -np.inf, 3.0, -9.0], dtype=np.float32)
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=0))
    assert {sampler.next_id(logits) for _ in range(100)} == {0, 2, 3}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("top_p", [5e-324, 1e-30, 1e-9, 1.0 - 1e-12, np.nextafter(1.0, 0.0)])
def test_top_p_at_its_edges(top_p):
    logits = np.array([0.0, 4.0, 3.0], dtype=np.float32)
    sampler = Sampler(SamplingOptions(temperature=1.0, top_p=top_p, seed=0))
    drawn = {sampler.next_id(logits) for _ in range(300)}
    assert drawn == ({1} if top_p < 0.5 else {0, 1, 2})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("penalty", "best"), [(5e-324, 1), (1e-46, 1), (1e-38, 1), (1e30, 0), (1e39, 0), (1e308, 0)]
)
def test_a_penalty_at_its_edges_overflows_nowhere(temperature, penalty, best):
    """Seen: a positive logit, zero, a negative one, and a token that is ruled out."""
    logits = np.array([2.0, 3.0, 0.0, -3.0, -np.inf], dtype=np.float32)
    options = SamplingOptions(temperature=temperature, repetition_penalty=penalty, seed=0)
    drawn = {Sampler(options).next_id(logits, [1, 2, 3, 4]) for _ in range(5)}
    assert drawn == {best} if best or not temperature else drawn <= {0, 1, 2}


class _Drawn:
    """A generator that draws the largest number below 1."""

    def random(self) -> float:
        return float(np.nextafter(1.0, 0.0))


def test_what_has_no_chance_is_never_drawn():
    """The product with a sum that is no power of two can be rounded up to the sum."""
    sampler = Sampler(SamplingOptions(temperature=1.0))
    sampler._random = _Drawn()
    for logit in np.linspace(-1, 0, 50, dtype=np.float32):
        assert sampler.next_id(np.array([0.0, logit, -np.inf], dtype=np.float32)) == 1


def test_greedy_applies_the_repetition_penalty_first():
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    logits = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    assert sampler.next_id(logits, [1, 1, 1]) == 2
    assert sampler.next_id(logits, np.array([1, 2], dtype=np.int64)) == 1
    # A negative logit is multiplied; an id beyond the logits is ignored.
    assert sampler.next_id(np.array([-1.0, -1.5], dtype=np.float32), [0, 7]) == 1
    assert logits.tolist() == [1.0, 3.0, 2.0]


def test_same_seed_same_draws():
    random = np.random.default_rng(1)
    steps = random.normal(0, 2, (50, 400)).astype(np.float32)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, top_p=0.95, seed=seed))
        return [sampler.next_id(logits) for logits in steps]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        logits = (np.log(probabilities) * 0.5).astype(np.float32)  # temperature 0.5 undoes it
    sampler = Sampler(SamplingOptions(temperature=0.5, seed=0))
    drawn = np.bincount([sampler.next_id(logits) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(drawn, probabilities, atol=0.012)
    assert drawn[1] == 0.0


def test_draws_stay_within_what_is_kept():
    logits = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    options = SamplingOptions(temperature=1.5, top_k=4, seed=0)
    sampler = Sampler(options)
    allowed = set(np.flatnonzero(np.isfinite(filtered_logits(logits, [], options))).tolist())
    assert len(allowed) == 4
    assert {sampler.next_id(logits) for _ in range(500)} == allowed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(temperature, bad):
    logits = np.array([0.0, bad, 1.0], dtype=np.float32)
    with pytest.raises(C2CError, match="highest logit"):
        Sampler(SamplingOptions(temperature=temperature)).next_id(logits)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("temperature", -0.1, ">= 0"),
        ("temperature", float("nan"), ">= 0"),
        ("temperature", float("inf"), ">= 0"),
        ("temperature", 10**400, ">= 0"),
        ("temperature", "1", ">= 0"),
        ("top_k", -1, ">= 0"),
        ("top_k", 1.5, ">= 0"),
        ("top_k", True, ">= 0"),
        ("top_p", 1.01, "from 0 to 1"),
        ("top_p", -0.5, "from 0 to 1"),
        ("top_p", float("nan"), "from 0 to 1"),
        ("repetition_penalty", 0.0, "> 0"),
        ("repetition_penalty", float("inf"), "> 0"),
        ("repetition_penalty", float("nan"), "> 0"),
        ("seed", -1, ">= 0"),
        ("seed", 0.5, ">= 0"),
    ],
)
def test_an_option_out_of_range_is_named(option, value, allowed):
    with pytest.raises(UsageError) as error:
        SamplingOptions(**{option: value})
    assert option in str(error.value)
    assert f"{option} is {repr(value)[:10]}" in str(error.value)
    assert allowed in str(error.value)


def test_integers_and_numpy_numbers_are_options():
    options = SamplingOptions(temperature=1, top_k=np.int64(3), top_p=1, seed=np.int64(5))
    assert Sampler(options).next_id(np.ones(5, dtype=np.float32)) in range(5)


def test_a_step_sorts_no_whole_vocabulary():
    logits = np.random.default_rng(0).normal(0, 3, 150_000).astype(np.float32)

    def seconds(options: SamplingOptions) -> float:
        sampler = Sampler(options)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            sampler.next_id(logits, [1, 2, 3])
            best = min(best, time.perf_counter() - start)
        return best

    start = time.perf_counter()
    np.argsort(logits, kind="stable")
    sort_s = time.perf_counter() - start
    assert seconds(SamplingOptions(repetition_penalty=1.1)) < sort_s / 4
    assert seconds(SamplingOptions(temperature=0.7, top_k=50, top_p=0.9)) < sort_s
