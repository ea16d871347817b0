"""What verification holds a bundle's graphs to: differences in fp32, cosine and agreement below it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from c2c_runtime.bundle.manifest import GoldenSpec
from c2c_runtime.checks.verification import _compare_cache, compare, compare_ids, verify

FP32 = GoldenSpec("case", "golden/case.npz", (1,), (), ((1, -1),), (5, 6, 7, 8), tolerance=1e-4)
FP16 = replace(FP32, min_cosine=0.999, min_agreement=0.75)
WANTED = np.linspace(-3.0, 3.0, 50, dtype=np.float32)


def test_fp32_is_held_to_the_largest_difference():
    inside = compare("x", WANTED + 5e-5, WANTED, FP32)
    outside = compare("x", WANTED + 1e-3, WANTED, FP32)
    assert (inside.ok, outside.ok) == (True, False)
    assert inside.metric == outside.metric == "difference"
    assert outside.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert outside.score is None


def test_low_precision_is_held_to_the_cosine():
    rounded = (WANTED + 1e-2).astype(np.float16)
    found = compare("x", rounded, WANTED, FP16)
    assert found.ok
    assert found.metric == "cosine"
    assert 0.999 < found.score < 1.0
    assert found.max_abs == pytest.approx(1e-2, rel=0.2)  # said all the same
    assert "cosine" in found.bound
    assert "0.999" in found.bound
    turned = compare("x", WANTED[::-1].astype(np.float16), WANTED, FP16)
    assert not turned.ok
    assert turned.score == pytest.approx(-1.0)


@pytest.mark.parametrize("case", [FP32, FP16])
@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(case, spoiled):
    actual = WANTED.copy()
    actual[7] = spoiled
    assert not compare("x", actual, WANTED, case).ok


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", [FP32, FP16])
@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_an_expectation_that_is_not_finite_is_never_met(case, spoiled):
    wanted = WANTED.copy()
    wanted[7] = spoiled
    for actual in (WANTED, wanted):
        assert not compare("x", actual, wanted, case).ok


def cache_of(*layers):
    """A cache that holds an array a layer, as ``verify`` reads it."""
    keys = {(layer, "key"): array for layer, array in enumerate(layers)}
    return SimpleNamespace(buffers=keys, valid=lambda layer, kind: keys[layer, kind])


@pytest.mark.parametrize("case", [FP32, FP16])
@pytest.mark.parametrize("bad", range(3))
def test_a_layer_of_nan_is_not_dropped_for_one_after_it(case, bad):
    good = WANTED.reshape(1, 1, -1, 1)
    layers = [good + np.float32(1e-6)] * 3
    layers[bad] = good * np.float32(np.nan)
    expected = {f"fused.{layer}.key": good for layer in range(3)}
    (found,) = _compare_cache("x", "fused", cache_of(*layers), expected, case)
    assert not found.ok


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_layer_that_fails_does_not_hide_behind_one_that_passes(order):
    """The passing one is farther off in relation, but near enough in absolute terms."""
    large = WANTED.reshape(1, 1, -1, 1)
    small = large * np.float32(1e-4)
    pairs = [(small + np.float32(9e-5), small), (large + np.float32(4e-4), large), (large, large)]
    expected = {f"fused.{n}.key": pairs[i][1] for n, i in enumerate(order)}
    cache = cache_of(*(pairs[i][0] for i in order))
    (found,) = _compare_cache("x", "fused", cache, expected, FP32)
    assert not found.ok
    assert found.max_abs == pytest.approx(4e-4, rel=1e-2)


def test_zeros_are_like_zeros_only():
    zeros = np.zeros_like(WANTED)
    assert compare("x", zeros, zeros, FP16).ok
    assert not compare("x", zeros, WANTED, FP16).ok


def test_ids_are_counted_and_their_share_decides():
    one_off = (5, 6, 0, 8)
    assert not compare_ids("ids", one_off, FP32).ok
    found = compare_ids("ids", one_off, FP16)
    assert found.ok
    assert (found.metric, found.score, found.max_abs) == ("agreement", 0.75, 1.0)
    assert not compare_ids("ids", (5, 0, 0, 8), FP16).ok
    assert compare_ids("ids", FP32.greedy_ids, FP32).ok


class _Scripted:
    """A conversation whose greedy id is one more than the last id it was given, but for one step."""

    def __init__(self, wrong_after: int | None) -> None:
        self.receiver = type("Cache", (), {"buffers": {}})()
        self.sharers = ()
        self.fed: list[int] = []
        self._wrong_after = wrong_after
        self.filling = 0.0

    def reset(self) -> None:
        self.fed.clear()

    def decode(self, ids) -> SimpleNamespace:
        self.fed += ids
        logits = np.full(16, self.filling, np.float32)
        logits[ids[-1] + (2 if ids[-1] == self._wrong_after else 1)] = 1.0
        return SimpleNamespace(numpy=lambda: logits)


class _Session:
    def __init__(self, directory, case, conversation) -> None:
        manifest = type("Manifest", (), {"golden": (case,), "baselines": ()})()
        self.bundle = type("Bundle", (), {"manifest": manifest})()
        self.bundle.path_of = directory.joinpath
        self._conversation = conversation

    def conversation(self):
        return self._conversation


@pytest.mark.parametrize(("wrong_after", "num_wrong"), [(None, 0), (6, 1)])
def test_every_step_is_fed_the_expected_id(tmp_path, wrong_after, num_wrong):
    """So that one step that differs does not change those after it."""
    case = replace(FP16, path="case.npz", receiver_ids=(4,))
    first = np.zeros(16, np.float32)
    first[5] = 1.0
    np.savez(tmp_path / "case.npz", logits=first)
    conversation = _Scripted(wrong_after)
    comparisons = list(verify(_Session(tmp_path, case, conversation)))
    assert conversation.fed == [4, 5, 6, 7]
    ids = comparisons[-1]
    assert (ids.metric, ids.max_abs, ids.score) == ("agreement", num_wrong, 1 - num_wrong / 4)
    assert all(item.ok for item in comparisons)


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_a_step_of_logits_that_are_not_finite_agrees_with_nothing(tmp_path, spoiled):
    """Also where the expected id is the first that is not finite."""
    case = replace(FP16, path="case.npz", receiver_ids=(4,), greedy_ids=(0, 0), min_agreement=0.5)
    np.savez(tmp_path / "case.npz", logits=np.zeros(16, np.float32))
    conversation = _Scripted(None)
    conversation.filling = spoiled
    ids = list(verify(_Session(tmp_path, case, conversation)))[-1]
    assert (ids.ok, ids.max_abs) == (False, 2)
