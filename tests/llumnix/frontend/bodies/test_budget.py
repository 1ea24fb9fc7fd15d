"""The budget of bytes: never overdrawn, and all of it comes back."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.bodies.budget import Budget
from llumnix.frontend.bodies.cost import is_cheap

STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.booleans()), max_size=60)


@given(STEPS)
def test_no_more_is_held_than_there_is_and_all_of_it_comes_back(
    steps: list[tuple[int, int, bool]],
) -> None:
    budget = Budget(100)
    holdings = [budget.holding() for _ in range(5)]
    expected = [0] * 5
    for which, size, leaves in steps:
        if leaves:
            holdings[which].give_back()
            expected[which] = 0
        elif holdings[which].grow_to(size):
            expected[which] = max(expected[which], size)
        assert budget.held_bytes == sum(expected) <= 100
    for holding in holdings:
        holding.give_back()
        holding.give_back()
    assert budget.held_bytes == 0


def test_ordinary_bodies_are_parsed_at_once_and_heavy_ones_are_not() -> None:
    assert is_cheap(b'{"prompt": "' + b"word " * 20_000 + b'"}')
    assert is_cheap(b"[" * 1000)
    assert not is_cheap(b'{"prompt": [' + b"1," * 20_000 + b"1]}")
    assert not is_cheap(b'{"prompt": "' + rb"\n" * 20_000 + b'"}')
    assert not is_cheap(b'{"prompt": "' + b"x" * 2**21 + b'"}')
