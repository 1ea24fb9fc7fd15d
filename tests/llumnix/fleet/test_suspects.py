"""Which request takes servers down: the guilty are found in time, and no bystander is convicted."""

from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.suspects import Suspects
from policies.types import InstanceId, RequestId

A, B, C = InstanceId("a"), InstanceId("b"), InstanceId("c")
BAD = RequestId("bad")


def names(count: int) -> list[RequestId]:
    return [RequestId(f"r{i}") for i in range(count)]


def test_one_that_was_alone_at_two_deaths_is_convicted() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, False)], 0.0)
    assert not judge.convicted(BAD)
    judge.died(B, [(BAD, False)], 1.0)

    assert judge.convicted(BAD) == (A, B)


def test_one_that_was_alone_may_have_produced_something() -> None:
    """Some crash an engine late: they are carried on, and crash the next."""
    judge = Suspects(2)
    judge.died(A, [(BAD, True)], 0.0)
    judge.died(B, [(BAD, False)], 1.0)

    assert judge.convicted(BAD)


def test_a_connection_that_broke_before_the_death_was_known_counts() -> None:
    judge = Suspects(1)
    judge.left(BAD, A, proved=False, now_s=0.0)
    judge.died(A, [], 0.5)

    assert judge.convicted(BAD) == (A,)


def test_a_connection_that_broke_long_before_does_not() -> None:
    judge = Suspects(1)
    judge.left(BAD, A, proved=False, now_s=0.0)
    judge.died(A, [], 60.0)

    assert not judge.convicted(BAD)


def test_those_who_are_well_on_their_way_are_bystanders() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, False), *((each, True) for each in names(50))], 0.0)

    assert judge.tried_alone(0.1) == [BAD]


def test_after_ordinary_deaths_nobody_is_tried_alone() -> None:
    """A server killed among its streams: they go on all at once."""
    judge = Suspects(2)
    judge.died(A, [(each, True) for each in names(50)], 0.0)

    assert judge.tried_alone(0.1) == []


def test_output_on_another_instance_clears() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, False)], 0.0)
    judge.died(B, [(BAD, True), (RequestId("r"), False)], 9.0)
    judge.died(C, [(BAD, False), (RequestId("s"), False)], 10.0)

    assert not judge.convicted(BAD)


def test_whoever_was_blamed_twice_in_company_stays_alone_until_it_is_known() -> None:
    judge = Suspects(2)
    for instance in (A, B):
        judge.died(instance, [(BAD, False), (RequestId("r"), False)], 0.0)

    assert not judge.convicted(BAD)
    assert judge.blamed(BAD, 3600.0)


def test_a_wait_for_others_is_bounded_at_the_first_death() -> None:
    judge = Suspects(2)
    judge.died(A, [(BAD, False), (RequestId("r"), False)], 0.0)

    assert judge.blamed(BAD, 1.0)
    assert not judge.blamed(BAD, 60.0)


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
    residents=st.lists(st.integers(0, 5), min_size=12, max_size=12),
    unproved=st.booleans(),
)
def test_a_poison_takes_down_at_most_one_more_and_no_bystander_is_convicted(
    limit: int, cohort: int, residents: list[int], unproved: bool
) -> None:
    """Law: tried alone after the first death, it is convicted at `limit`, whatever the company.

    The first death hides it among a cohort that has produced nothing either; at each later one it
    is beside residents, proved or not, that were never blamed.
    """
    judge = Suspects(limit)
    innocent = names(cohort)
    everyone = set(innocent)
    judge.died(A, [(BAD, False), *((each, False) for each in innocent)], 0.0)
    deaths = 1
    while not judge.convicted(BAD) and deaths < 12:
        assert judge.blamed(BAD, deaths * 0.1) or limit == 1
        there = [RequestId(f"{deaths}-{i}") for i in range(residents[deaths])]
        everyone.update(there)
        judge.died(
            InstanceId(f"i{deaths}"),
            [(BAD, False), *((each, not unproved) for each in there)],
            deaths * 0.1,
        )
        deaths += 1

    assert deaths <= max(limit, 1 + (cohort > 0))
    assert not any(judge.convicted(each) for each in everyone if limit > 1)
