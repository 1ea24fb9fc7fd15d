"""When an answer ends, and how it is read."""

import asyncio

import pytest

from llumnix.emulator.model.kv import KvPool
from llumnix.emulator.model.vocabulary import END_ID, TEXT
from llumnix.emulator.requests import EmulatedRequest, FinishReason, Sampling
from policies.types import RequestId

TABLE = KvPool(1, 16, 8).table()
A, B, C = 300, 301, 302


def request(sampling: Sampling, outputs: tuple[int, ...] = ()) -> EmulatedRequest:
    return EmulatedRequest(RequestId("a"), 0, [1, 2, 3], outputs, sampling, TABLE)


def test_the_last_token_ends_it_by_length() -> None:
    """`max_tokens` counts every output, those it came with too."""
    answer = request(Sampling(3), outputs=(A,))
    assert [answer.accept(B), answer.accept(C)] == [False, True]
    assert answer.finish == FinishReason("length")
    assert (answer.outputs, answer.output_tokens) == ([A, B, C], 3)


def test_the_end_token_ends_it_unless_ignored() -> None:
    """`ignore_eos` makes it a token like any other."""
    assert request(Sampling(3)).accept(END_ID)
    assert not request(Sampling(3, ignore_eos=True)).accept(END_ID)


@pytest.mark.parametrize(
    ("stop", "found", "text_end"),
    [
        (TEXT[B], TEXT[B], 5),
        (TEXT[A][-2:] + TEXT[B][:2], TEXT[A][-2:] + TEXT[B][:2], 3),
        (TEXT[B][2:], TEXT[B][2:], 7),
    ],
)
def test_a_stop_string_ends_it_where_it_begins(stop: str, found: str, text_end: int) -> None:
    """Within a token, at its edge, or across two tokens."""
    answer = request(Sampling(9, stop=("never", stop)))
    assert [answer.accept(A), answer.accept(B)] == [False, True]
    assert answer.finish == FinishReason("stop", found, text_end)


def test_the_earliest_of_several_stop_strings_counts() -> None:
    """A token may complete two; the text is cut at the first."""
    answer = request(Sampling(9, stop=(TEXT[A][-1], TEXT[A][1])))
    answer.accept(A)
    assert answer.finish == FinishReason("stop", TEXT[A][1], 1)


def test_stop_strings_wait_for_min_tokens() -> None:
    """What must not end yet does not stop either."""
    answer = request(Sampling(9, min_tokens=1, stop=(TEXT[A], TEXT[B])))
    assert [answer.accept(A), answer.accept(B)] == [False, True]


def test_outputs_it_came_with_may_end_it_at_once() -> None:
    """Its first engine died between the last token and the end of its stream."""
    assert request(Sampling(2), outputs=(A, B)).finish == FinishReason("length")
    assert request(Sampling(9, stop=(TEXT[B],)), outputs=(A, B)).finish is not None


def test_sampling_survives_its_description() -> None:
    """It travels with a migrating request."""
    sampling = Sampling(7, True, 3, ("a", "b"))
    assert Sampling.from_params(sampling.to_params()) == sampling


@pytest.mark.parametrize(
    "change", [{"max_tokens": "7"}, {"stop": "a"}, {"stop": [1]}, {"ignore_eos": 1}]
)
def test_a_wrong_description_is_refused(change: dict[str, object]) -> None:
    """Whatever a peer sends, it is checked."""
    with pytest.raises(ValueError, match="not a description"):
        Sampling.from_params({**Sampling(7).to_params(), **change})


async def test_a_reader_gets_each_token_once_and_then_the_end() -> None:
    """Reading waits for tokens, gives all there are, and the finish with the last."""
    answer = request(Sampling(3))
    reading = asyncio.create_task(answer.read(0))
    await asyncio.sleep(0)
    assert not reading.done()
    answer.accept(A)
    assert await reading == ([A], None)
    answer.accept(B)
    answer.accept(C)
    assert await answer.read(1) == ([B, C], FinishReason("length"))


async def test_a_late_reader_gets_everything_from_the_first_token() -> None:
    """A claim replays."""
    answer = request(Sampling(2), outputs=(A,))
    answer.accept(B)
    assert await answer.read(0) == ([A, B], FinishReason("length"))


async def test_an_end_without_a_token_wakes_the_reader() -> None:
    """A request that moves away ends its stream; a later end changes nothing."""
    answer = request(Sampling(3))
    reading = asyncio.create_task(answer.finished())
    await asyncio.sleep(0)
    answer.end(FinishReason("abort", "migrate:m"))
    answer.end(FinishReason("abort", "again"))
    assert await reading == FinishReason("abort", "migrate:m")
