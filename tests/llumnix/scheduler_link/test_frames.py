"""Messages survive any cutting of the bytes, and nonsense ends the link instead of the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.placement import PlacementRequest
from llumnix.frontend.request.refusal import Refusal
from llumnix.scheduler_link import messages
from llumnix.scheduler_link.frames import Malformed, Unframer, frame
from policies.types import DispatchRequest, InstanceId, RequestId

said = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=9,
)
spoken = st.lists(st.tuples(st.integers(0, 99), said).map(list), min_size=1, max_size=4)
ids = st.frozensets(st.text(min_size=1, max_size=6).map(InstanceId), max_size=3)


@given(st.lists(spoken, max_size=4), st.integers(1, 40))
def test_messages_arrive_as_they_were_sent_however_the_bytes_are_cut(
    turns: list[list[list[object]]], step: int
) -> None:
    stream = b"".join(frame(turn) for turn in turns)
    unframer = Unframer()
    heard = [
        message
        for at in range(0, len(stream), step)
        for message in unframer.feed(stream[at : at + step])
    ]
    assert heard == [message for turn in turns for message in turn]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        frame([])[:4] + b"\x05",
        b"\x00\x00\x00\x02\x91\x01",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(Unframer().feed(data))


@given(
    st.builds(
        PlacementRequest,
        st.builds(
            DispatchRequest,
            st.text(min_size=1).map(RequestId),
            st.integers(0, 3),
            st.integers(0, 10**6),
            st.floats(0, 1e9),
            model=st.none() | st.text(),
        ),
        ids,
        ids,
        st.booleans(),
        st.booleans(),
    )
)
def test_the_wish_for_an_instance_travels_whole(ask: PlacementRequest) -> None:
    (message,) = Unframer().feed(frame([messages.place(7, ask)]))
    kind, number, *told = message
    assert (kind, number) == (messages.Kind.PLACE, 7)
    assert messages.ask_of(told) == ask


def test_a_refusal_travels_whole() -> None:
    refusal = Refusal(503, "full", "overloaded", retry_after_s=2.0)
    (message,) = Unframer().feed(frame([[1, messages.refusal_plain(refusal)]]))
    assert messages.refusal_of(message[1]) == refusal
