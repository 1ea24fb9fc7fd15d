"""When a simulated ratio agrees with one of the paper's (benchmarks/paper_parts/claims.py)."""

import math

import pytest

from paper_parts.claims import Claim, Ratio, direction, size


def test_a_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    ratio = Ratio.of([2.0, 8.0], [1.0, 1.0])
    assert ratio is not None
    assert ratio.value == pytest.approx(4.0)
    assert ratio.low * ratio.high == pytest.approx(16.0)


def test_a_ratio_turned_around_is_the_inverse_interval() -> None:
    one, other = [3.0, 5.0, 4.0], [2.0, 1.5, 2.5]
    there, back = Ratio.of(one, other), Ratio.of(other, one)
    assert there is not None
    assert back is not None
    assert there.low * back.high == pytest.approx(1.0)


def test_one_pair_gives_no_interval_and_is_never_certain() -> None:
    ratio = Ratio.of([100.0], [1.0])
    assert ratio is not None
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert not ratio.certain
    assert direction(ratio, 100.0) == "not certain"


def test_there_is_no_ratio_of_nothing_or_to_zero() -> None:
    assert Ratio.of([], []) is None
    assert Ratio.of([1.0, 1.0], [1.0, 0.0]) is None


@pytest.mark.parametrize(
    ("ours", "paper", "told"),
    [
        (Ratio(2.0, 1.5, 2.7), 8.0, "yes"),
        (Ratio(0.5, 0.4, 0.6), 0.7, "yes"),
        (Ratio(0.5, 0.4, 0.6), 8.0, "no"),
        (Ratio(2.0, 0.9, 4.4), 8.0, "not certain"),
        (None, 8.0, "not certain"),
    ],
)
def test_direction_agrees_where_the_same_side_is_certainly_better(
    ours: Ratio | None, paper: float, told: str
) -> None:
    assert direction(ours, paper) == told


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        (Ratio(1.02, 1.01, 1.03), "yes"),
        (Ratio(1.05, 0.5, 2.2), "yes"),
        (Ratio(3.0, 0.9, 10.0), "not certain"),
        (Ratio(3.0, 2.0, 4.5), "no"),
    ],
)
def test_where_the_paper_has_no_gain_a_large_certain_one_disagrees(ours: Ratio, told: str) -> None:
    assert direction(ours, 0.96) == told


@pytest.mark.parametrize(
    ("ours", "paper", "told"),
    [
        (Ratio(2.0, 1.9, 2.1), 2.9, "like"),
        (Ratio(2.0, 1.9, 2.1), 3.1, "smaller"),
        (Ratio(2.0, 1.0, 4.0), 3.1, "like"),
        (Ratio(9.0, 8.0, 10.0), 3.1, "larger"),
        (Ratio(2.0, 0.0, math.inf), 8.0, "smaller"),
        (Ratio(0.2, 0.1, 0.3), 0.5, "larger"),
    ],
)
def test_size_agrees_within_a_factor_or_where_the_interval_holds_the_paper(
    ours: Ratio, paper: float, told: str
) -> None:
    assert size(ours, paper) == told


def test_an_equal_load_is_told_by_the_policy_compared_with() -> None:
    assert Claim("M-M", 7.8, "ttft mean", 5.9, 0.76).matched_by == ("ttft mean", 5.9)
