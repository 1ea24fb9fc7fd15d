"""Chance follows from seed and turn, and is even."""

from collections import Counter

import pytest

from policies.chance import chance


def test_equal_arguments_give_equal_draws_and_other_seeds_others() -> None:
    draws = [chance(1, turn, 1000) for turn in range(50)]

    assert draws == [chance(1, turn, 1000) for turn in range(50)]
    assert draws != [chance(2, turn, 1000) for turn in range(50)]


@pytest.mark.parametrize("choices", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_choice_is_drawn_about_equally_often(seed: int, choices: int) -> None:
    n = 6000
    counts = Counter(chance(seed, turn, choices) for turn in range(n))

    assert set(counts) == set(range(choices))
    assert all(abs(count - n / choices) < 5 * (n / choices) ** 0.5 for count in counts.values())
