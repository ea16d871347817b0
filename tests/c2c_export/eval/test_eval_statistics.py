"""Intervals and the exact test, against values that others published or that can be counted by hand."""

from __future__ import annotations

import math
import random

import pytest

from c2c_export.eval.statistics import Paired, share_alike, wilson_interval


@pytest.mark.parametrize(
    ("num_right", "num_items", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0)],
)  # fmt: skip
def test_wilsons_interval(num_right, num_items, low, high):
    assert wilson_interval(num_right, num_items) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # The first example of Newcombe's paper: method 10 gives 0.0569 to 0.3404.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # No correlation to correct for: the square-and-add interval of two independent shares.
        ((0, 0, 0, 10), -0.2775, 0.2775),
        ((10, 0, 0, 0), -0.2775, 0.2775),
    ],
)
def test_newcombes_paired_interval(counts, low, high):
    assert Paired(*counts).interval == pytest.approx((low, high), abs=1e-4)


def test_the_interval_turns_with_the_modes_and_holds_the_difference():
    generator = random.Random(0)
    for _ in range(200):
        both, first, second, neither = (generator.randrange(40) for _ in range(4))
        if not both + first + second + neither:
            continue
        one, other = Paired(both, first, second, neither), Paired(both, second, first, neither)
        low, high = one.interval
        assert -1 <= low <= one.difference <= high <= 1
        assert other.interval == pytest.approx((-high, -low))


def test_the_paired_interval_covers_the_truth_as_often_as_it_says():
    generator = random.Random(1)
    covered = 0
    for _ in range(1000):
        right = [generator.random() for _ in range(60)]
        noise = [generator.random() for _ in range(60)]
        first = [a < 0.5 or b < 0.3 for a, b in zip(right, noise, strict=True)]  # 0.65
        second = [a < 0.5 for a in right]  # 0.5
        low, high = Paired.of(first, second).interval
        covered += low <= 0.15 <= high
    assert 0.93 <= covered / 1000 <= 0.985


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (5, 0, 2 / 32), (0, 10, 2 / 1024), (8, 2, 112 / 1024), (2, 8, 112 / 1024)],
)  # fmt: skip
def test_mcnemars_exact_test(only_first, only_second, p):
    assert Paired(7, only_first, only_second, 3).p_value == pytest.approx(p)


def test_mcnemars_test_of_many_items():
    p = Paired(0, 4000, 1000, 0).p_value
    assert 0 <= p < 1e-300 or math.isclose(p, 0.0)


def test_items_are_counted_in_pairs():
    paired = Paired.of([True, True, False, False, True], [True, False, True, False, True])
    assert paired == Paired(2, 1, 1, 1)
    assert paired.num_items == 5
    assert paired.difference == 0
    assert Paired(0, 0, 0, 0).interval == (-1.0, 1.0)


def test_no_answer_is_not_the_same_answer():
    assert share_alike(["A", None, "B", None], ["A", None, "C", "D"]) == 0.25
    assert share_alike([], []) == 0.0
