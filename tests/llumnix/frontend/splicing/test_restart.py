"""Nothing was said yet: what counts as something, and a stream that starts afresh behind it."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.splicing import sse, transcript
from llumnix.frontend.splicing.restart import Restart
from llumnix.frontend.splicing.sse import until_error
from llumnix.frontend.splicing.transcript import says_something

PING = b": ping\n\n"


def chunk(
    delta: dict[str, Any] | None = None, ident: str = "x", index: int = 0, **more: Any
) -> bytes:
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": None}
    return sse.encode({"id": ident, "created": 1, "choices": [{**choice, **more}]})


ROLE = {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    "event",
    [
        PING,
        b"event: ping\n\n",
        b"event: ping\ndata: {}\n\n",
        b'data: {"type":"ping"}\n\n',
        b"data:\n\n",
        b"retry: 100\n\n",
        chunk(ROLE),
        chunk({"role": "assistant", "content": None, "tool_calls": []}),
        chunk({"role": "assistant"}, prompt_token_ids=[1, 2]),
        chunk(ROLE, token_ids=[]),
        chunk(ROLE, logprobs={}),
    ],
)
def test_what_says_nothing(event: bytes) -> None:
    assert not says_something(event)
    assert not transcript.read(event).said


@pytest.mark.parametrize(
    "event",
    [
        chunk({"content": "a"}),
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning": "hm"}),
        chunk({"refusal": "no"}),
        chunk({"audio": {"id": "a", "data": "AA=="}}),
        chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}),
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({}, token_ids=[7]),
        chunk({}, logprobs={"content": [{"token": "a"}]}),
        chunk({}, finish_reason="stop"),
        chunk({"content": "b"}, index=1),
        sse.encode({"id": "x", "choices": [{"index": 0, "text": "a"}]}),
        sse.encode({"id": "x", "choices": [], "usage": {"prompt_tokens": 1}}),
        b"data: not json\n\n",
        sse.DONE,
    ],
)
def test_what_says_something(event: bytes) -> None:
    assert says_something(event)
    assert says_something(PING + chunk(ROLE) + event)
    assert transcript.read(event).said


@given(
    before=st.lists(st.sampled_from([PING, chunk(ROLE), chunk(ROLE, index=1)]), max_size=4),
    again=st.lists(
        st.sampled_from([PING, chunk(ROLE, "y"), chunk(ROLE, "y", index=1)]), max_size=4
    ),
    words=st.lists(st.sampled_from(["a", "data: ", '"id":"y"']), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_a_client_sees_each_choice_opened_once_and_one_id(
    before: list[bytes], again: list[bytes], words: list[str], cuts: list[int]
) -> None:
    """Law: however the second stream is fed, its words arrive whole, its opening does not."""
    had = transcript.read(b"".join(before))
    joiner = Restart(had)
    events = [*again, *(chunk({"content": word}, "y") for word in words), sse.DONE]
    bounds = sorted({0, *(min(cut, len(events)) for cut in cuts), len(events)})
    got = b""
    for start, stop in itertools.pairwise(bounds):
        data = b"".join(events[start:stop])
        got += joiner.relabel(data) if joiner.caught_up else joiner.feed(data)
    parsed = [sse.payload(event) for event in sse.events(got)]
    chunks = [each for each in parsed if each is not None]

    assert [
        each["choices"][0]["delta"]["content"]
        for each in chunks
        if "role" not in each["choices"][0]["delta"]
    ] == words
    opened = {
        each["choices"][0]["index"] for each in chunks if not says_something(sse.encode(each))
    }
    assert not opened & had.opened
    assert {each["id"] for each in chunks} == ({"x"} if had.head else {"y"})
    assert got.endswith(sse.DONE)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"message": "no", "type": "InternalServerError", "code": 500}}, 500),
        ({"error": {"message": "no", "code": "internal_error"}}, 500),
        ({"error": "EngineCore died"}, 500),
        ({"object": "error", "message": "no", "code": 503}, 503),
        ({"error": {"message": "slow down", "code": 429}}, 429),
    ],
)
def test_a_servers_error_is_found_among_events(error: dict[str, Any], status: int) -> None:
    last = b"data: " + json.dumps(error).encode() + b"\n\n"
    kept, found = until_error(chunk({"content": "a"}) + last + sse.DONE)

    assert kept == chunk({"content": "a"})
    assert found is not None
    assert (found.status, found.rest) == (status, last + sse.DONE)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"too long","code":400}}\n\n',
        b'data: {"error":null}\n\n',
        chunk({"content": '{"error":{"code":500}}'}),
        chunk({"content": "a"}, error={"code": 500}),
        b': "error"\n\n',
    ],
)
def test_what_is_no_servers_error_is_output(event: bytes) -> None:
    assert until_error(event) == (event, None)
