"""Numbered events: cut anywhere, fed again in any chunking, the parts are the whole."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.reconnect.numbering import Numbering
from llumnix.frontend.reconnect.position import Position, read_position
from llumnix.frontend.splicing.splice import Diverged
from tests.llumnix.frontend.reconnect.doors import events
from tests.llumnix.frontend.splicing.chunks import DONE, Writer, event, full_text, token

TOKENS = 14


def stream(*, chat: bool, merge: int, created: int = 5, usage: bool = True) -> list[bytes]:
    """Write a stream."""
    writer = Writer(chat=chat, created=created)
    chunks = writer.stream(TOKENS, merge)
    return [*chunks[:-1], *([writer.usage(TOKENS)] if usage else []), DONE]


def told(data: bytes) -> tuple[str, list[int], list[Any], int, int]:
    """Gather what a client reads: text, token ids, finish reasons, usages, ends."""
    text, usages, done = "", 0, 0
    ids: list[int] = []
    ends: list[Any] = []
    for each in data.split(b"\n\n")[:-1]:
        line = each.rpartition(b"data: ")[2]
        if line == b"[DONE]":
            done += 1
            continue
        chunk = json.loads(line)
        usages += "usage" in chunk
        assert chunk["created"] == 5
        for choice in chunk["choices"]:
            text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            ids += choice.get("token_ids") or []
            ends += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, ids, ends, usages, done


@given(
    chat=st.booleans(),
    merge=st.integers(1, 5),
    again=st.integers(1, 5),
    cut=st.integers(0, TOKENS + 3),
)
def test_the_parts_are_the_whole(chat: bool, merge: int, again: int, cut: int) -> None:
    first = Numbering(Position())
    had = b"".join(first.feed(each) for each in stream(chat=chat, merge=merge)[:cut])
    since = events(had)[-1][0] if had else "0"
    position = read_position(since)
    assert position is not None
    second = Numbering(position)
    created = 9 if had else 5
    rest = b"".join(second.feed(e) for e in stream(chat=chat, merge=again, created=created))
    expected = (full_text(TOKENS), [token(i) for i in range(TOKENS)], ["length"], 1, 1)
    assert told(had + rest) == expected


@given(cut=st.integers(1, TOKENS - 1), wrong=st.integers(0, TOKENS - 1))
def test_another_answer_is_never_continued(cut: int, wrong: int) -> None:
    """A difference anywhere in what the client has ends it before anything is sent."""
    first = Numbering(Position())
    had = b"".join(first.feed(each) for each in stream(chat=False, merge=1)[:cut])
    position = read_position(events(had)[-1][0])
    assert position is not None
    second, sent = Numbering(position), b""
    other = [
        each.replace(b'"token_ids":[%d]' % token(wrong), b'"token_ids":[3]')
        for each in stream(chat=False, merge=1)
    ]
    if wrong >= cut:
        assert b"".join(map(second.feed, other))
        return
    with pytest.raises(Diverged):  # noqa: PT012 - which of them raises is not the point
        for each in other:
            sent += second.feed(each)
    assert not sent


def call(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return event({"id": "x", "created": 5, "choices": [choice]})


def tool(call_id: str, pieces: list[str]) -> list[bytes]:
    """Write a tool call as a server does that makes up its id."""
    head = {"index": 0, "id": call_id, "type": "function"}
    out = [call(tool_calls=[{**head, "function": {"name": "look", "arguments": ""}}])]
    out += [call(tool_calls=[{"index": 0, "function": {"arguments": p}}]) for p in pieces]
    return [*out, DONE]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_tool_call_keeps_its_first_id(cut: int) -> None:
    first = Numbering(Position())
    had = b"".join(map(first.feed, tool("call_1", ["{", '"a":', "1}"])[:cut]))
    position = read_position(events(had)[-1][0])
    assert position is not None
    second = Numbering(position)
    rest = b"".join(map(second.feed, tool("call_2", ['{"', 'a":1', "}"])))
    assert b"call_2" not in rest
    assert (had + rest).count(b"call_1") == 1
    arguments = ""
    for _, each in events(had + rest)[:-1]:
        for one in json.loads(each[6:])["choices"][0]["delta"].get("tool_calls", []):
            arguments += one["function"].get("arguments", "")
    assert arguments == '{"a":1}'


@pytest.mark.parametrize("text", ["", "1", "-1", "0.0", "1.2.3.4.5.6", "0 ", "1.0.2.0.1.00000000"])
def test_what_is_no_id_is_not_read(text: str) -> None:
    assert read_position(text) is None


def test_comments_and_errors_have_no_number() -> None:
    numbering = Numbering(Position())
    error = b'data: {"error":{"message":"no","code":500}}\n\n'
    assert numbering.feed(b": ping\n\n" + error) == b": ping\n\n" + error
