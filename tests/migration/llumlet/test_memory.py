"""What a llumlet remembers of requests that have ended: bounded, for a minute, for their owner."""

from hypothesis import given
from hypothesis import strategies as st

from migration.llumlet.fleet_messages import Recollection
from migration.llumlet.memory import MAX_OUTPUT, REMEMBERED_S, Ended, Memory
from policies.types import RequestId

R = RequestId("r")
UNKNOWN = (Recollection.UNKNOWN, ())


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_an_output_is_remembered_for_a_minute() -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.note(R, Ended("me", (1, 2), complete=False))
    clock.now_s += REMEMBERED_S
    assert memory.recall(R, "me") == (Recollection.CUT, (1, 2))
    clock.now_s += 0.1
    assert memory.recall(R, "me") == UNKNOWN
    assert len(memory) == memory.tokens == 0


def test_only_its_owner_is_told() -> None:
    memory = Memory(Clock())
    memory.note(R, Ended("me", (1,), complete=True))
    assert memory.recall(R, "you") == UNKNOWN
    assert memory.recall(R, "me") == (Recollection.COMPLETE, (1,))


def test_what_ended_last_under_an_id_counts() -> None:
    memory = Memory(Clock())
    memory.note(R, Ended("me", (1,), complete=False))
    memory.note(R, Ended("me", (1, 2, 3), complete=True))
    assert memory.recall(R, "me") == (Recollection.COMPLETE, (1, 2, 3))
    assert memory.tokens == 3


def test_one_that_is_resumed_and_cut_off_early_is_known_as_before() -> None:
    memory = Memory(Clock())
    memory.note(R, Ended("me", (1, 2, 3), complete=False))
    memory.note(R, Ended("me", (1, 2), complete=False))
    assert memory.recall(R, "me") == (Recollection.CUT, (1, 2, 3))
    memory.note(R, Ended("me", (1, 7), complete=False))
    assert memory.recall(R, "me") == (Recollection.CUT, (1, 7)), "another answer"


def test_an_output_that_no_message_holds_is_not_remembered() -> None:
    memory = Memory(Clock())
    memory.note(R, Ended("me", (1,) * (MAX_OUTPUT + 1), complete=False))
    assert memory.recall(R, "me") == UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30))))
def test_memory_is_bounded_and_the_oldest_go_first(ended: list[tuple[int, int]]) -> None:
    memory = Memory(Clock(), max_requests=4, max_tokens=50)
    order: list[int] = []
    for number, tokens in ended:
        memory.note(RequestId(str(number)), Ended("me", (7,) * tokens, complete=True))
        order = [*(each for each in order if each != number), number]
        assert len(memory) <= 4
        assert memory.tokens <= 50
    known = [each for each in order if memory.recall(RequestId(str(each)), "me") != UNKNOWN]
    assert known == order[len(order) - len(known) :]
    assert not order or known, "the last one fits by itself"
