"""What verification holds a bundle's graphs to: differences in fp32, cosine and agreement below it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from c2c_runtime.bundle.manifest import GoldenSpec
from c2c_runtime.checks.verification import compare, compare_ids, verify

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

    def reset(self) -> None:
        self.fed.clear()

    def decode(self, ids) -> SimpleNamespace:
        self.fed += ids
        logits = np.zeros(16, np.float32)
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
