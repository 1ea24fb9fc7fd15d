"""Which request takes servers down: the guilty are found in time, and no bystander is convicted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.faults.suspects import Standing, Suspects
from policies.types import InstanceId, RequestId

A, B, C = InstanceId("a"), InstanceId("b"), InstanceId("c")
BAD = RequestId("bad")
NEW, QUIET, FLOWING, PROVED = Standing


def names(count: int) -> list[RequestId]:
    return [RequestId(f"r{i}") for i in range(count)]


def test_one_that_was_alone_at_two_deaths_is_convicted() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, NEW)], 0.0)
    assert not judge.convicted(BAD)
    judge.died(B, [(BAD, NEW)], 1.0)

    assert judge.convicted(BAD) == (A, B)


def test_one_that_was_alone_may_have_produced_something() -> None:
    """Some crash an engine late: they are carried on, and crash the next."""
    judge = Suspects(2)
    judge.died(A, [(BAD, FLOWING)], 0.0)
    judge.died(B, [(BAD, QUIET)], 1.0)

    assert judge.convicted(BAD)


def test_a_connection_that_broke_before_the_death_was_known_counts() -> None:
    judge = Suspects(1)
    judge.left(BAD, A, NEW, 0.0)
    judge.died(A, [], 0.5)

    assert judge.convicted(BAD) == (A,)


def test_a_connection_that_broke_long_before_does_not() -> None:
    judge = Suspects(1)
    judge.left(BAD, A, NEW, 0.0)
    judge.died(A, [], 60.0)

    assert not judge.convicted(BAD)


@pytest.mark.parametrize("others", [QUIET, FLOWING, PROVED])
def test_only_the_newest_are_suspect(others: Standing) -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, NEW), *((each, others) for each in names(50))], 0.0)

    assert judge.blamed(BAD, 0.1)
    assert not any(judge.blamed(each, 0.1) for each in names(50))


def test_after_ordinary_deaths_nobody_is_tried_alone() -> None:
    """A server killed among its streams: they go on all at once."""
    judge = Suspects(2)
    judge.died(A, [(each, FLOWING) for each in names(50)], 0.0)

    assert not any(judge.blamed(each, 0.1) for each in names(50))


def test_a_while_on_another_instance_clears() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, NEW)], 0.0)
    judge.died(B, [(BAD, PROVED), (RequestId("r"), NEW)], 9.0)
    judge.died(C, [(BAD, NEW)], 10.0)

    assert not judge.convicted(BAD)


def test_whoever_was_blamed_twice_in_company_stays_alone_until_it_is_known() -> None:
    judge = Suspects(2)
    for instance in (A, B):
        judge.died(instance, [(BAD, NEW), (RequestId("r"), NEW)], 0.0)

    assert not judge.convicted(BAD)
    assert judge.blamed(BAD, 3600.0)


def test_a_wait_for_others_is_bounded_at_the_first_death() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, NEW), (RequestId("r"), NEW)], 0.0)

    assert judge.blamed(BAD, 1.0)
    assert not judge.blamed(BAD, 60.0)


def test_nobody_is_there_at_one_death_after_the_other() -> None:
    """Always beside others, never for long: convicted in the end, whatever it is."""
    judge = Suspects(2)
    for number in range(4):
        fresh = [(RequestId(f"{number}-{each}"), NEW) for each in range(3)]
        judge.died(InstanceId(f"i{number}"), [(BAD, FLOWING), *fresh], float(number))

    assert judge.convicted(BAD)


def test_an_equal_body_is_known_for_a_while() -> None:
    judge = Suspects(2)
    judge.condemn(b"digest", 0.0)

    assert judge.condemned(b"digest", 10.0)
    assert not judge.condemned(b"other", 10.0)
    assert not judge.condemned(b"digest", 10_000.0)
    assert not judge.any_condemned


@given(
    limit=st.integers(1, 4),
    cohort=st.integers(0, 12),
    residents=st.lists(
        st.lists(st.sampled_from([QUIET, FLOWING, PROVED]), max_size=5), min_size=12, max_size=12
    ),
)
def test_a_poison_takes_down_at_most_its_limit_and_no_bystander_is_convicted(
    limit: int, cohort: int, residents: list[list[Standing]]
) -> None:
    """Law: tried alone after the first death, it is convicted at `limit`, whatever the company.

    The first death hides it among a cohort as new as it is; at each later one it is beside
    residents that are not.
    """
    judge = Suspects(limit)
    everyone = set(names(cohort))
    judge.died(A, [(BAD, NEW), *((each, NEW) for each in names(cohort))], 0.0)
    deaths = 1
    while not judge.convicted(BAD) and deaths < 12:
        assert judge.blamed(BAD, deaths * 0.1)
        there = {RequestId(f"{deaths}-{n}"): each for n, each in enumerate(residents[deaths])}
        everyone.update(there)
        judge.died(InstanceId(f"i{deaths}"), [(BAD, NEW), *there.items()], deaths * 0.1)
        deaths += 1

    assert deaths <= max(limit, 1 + (cohort > 0))
    assert not any(judge.convicted(each) for each in everyone)
