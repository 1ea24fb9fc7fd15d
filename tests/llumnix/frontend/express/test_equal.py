"""The short way answers as the long way does: the same bytes are sent both ways."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.llumnix.frontend.stage import Stage

_DATE = re.compile(rb"Date: [^\r]*")
_MADE_ID = re.compile(rb"[0-9a-f]{24}|~[0-9a-f]{12}")
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

SLOW_BUT_SURE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def turns() -> None:
    """Let the event loop read what has been sent: it is in the socket's buffer by then."""
    for _ in range(3):
        await asyncio.sleep(0)


class Both:
    """Two frontends alike, but for the short way; on an event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.stages = [Stage(1, plugged=False, express=express) for express in (True, False)]

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30.0)

    def open(self) -> None:
        self.thread.start()
        for stage in self.stages:
            self.wait(stage.__aenter__())

    def close(self) -> None:
        for stage in self.stages:
            self.wait(stage.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10.0)
        self.loop.close()

    def say(self, pieces: list[bytes]) -> list[bytes]:
        """Send the same bytes both ways, in the same pieces; return what came back."""
        return [self._say(stage.url, pieces) for stage in self.stages]

    def heard(self) -> list[list[tuple[bytes, list[tuple[str, str]]]]]:
        """Return what the two instances have been sent since this was last asked."""
        told = []
        for stage in self.stages:
            heard = stage.stubs[0].heard
            told.append([(each.raw, sorted(each.headers.items())) for each in heard])
            heard.clear()
        return told

    def _say(self, url: str, pieces: list[bytes]) -> bytes:
        host, _, port = url.removeprefix("http://").partition(":")
        got = b""
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in pieces:
                    client.sendall(piece)
                    self.wait(turns())  # so that the pieces are read one by one
            except ConnectionError:
                pass  # it has been refused already
            while True:
                try:
                    part = client.recv(65536)
                except ConnectionError:
                    break
                if not part:
                    break
                got += part
        return got


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    made = Both()
    made.open()
    yield made
    made.close()


def comparable(data: bytes) -> bytes:
    """Replace what differs between any two answers: the time, ids that were made up."""
    return _MADE_ID.sub(b"<id>", _DATE.sub(b"Date: now", unchunked(data)))


def unchunked(data: bytes) -> bytes:
    """Join the chunks of chunked responses: how a stream is cut depends on the moment."""
    out, rest = b"", data
    while rest:
        head, blank, after = rest.partition(b"\r\n\r\n")
        out += head + blank
        if b"Transfer-Encoding: chunked" not in head:
            length = re.search(rb"Content-Length: (\d+)", head)
            size = int(length[1]) if length else 0
            out, rest = out + after[:size], after[size:]
            continue
        rest = after
        while rest:
            line, _, rest = rest.partition(b"\r\n")
            size = int(line or b"0", 16)
            out, rest = out + rest[:size], rest[size + 2 :]
            if not size:
                out += b"(end of chunks)"
                break
    return out


def request(
    body: bytes,
    *,
    path: bytes = b"/v1/completions",
    headers: tuple[bytes, ...] = (),
    length: bytes | None = None,
) -> bytes:
    lines = [
        b"POST %b HTTP/1.1" % path,
        b"Host: x",
        b"Content-Type: application/json",
        *headers,
        b"Content-Length: " + (b"%d" % len(body) if length is None else length),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", **members}).encode()


BODIES = st.sampled_from(
    [
        *(body(), body(stream=True), body(stream=True, stream_options={"include_usage": True})),
        *(body(n=2), body(return_token_ids=True), body(stream=True, return_token_ids=True)),
        *(body(model="other"), body(prompt=[1, 2, 3]), body(max_tokens=-1), b"{", b"[]", b"{}"),
        *(
            body(priority=-1),
            body(kv_transfer_params={"llumnix": 1}),
            b' {"prompt": "\xc3\xa9"} \n',
        ),
        json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode(),
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            *(b"Accept: */*", b"accept-encoding: gzip, deflate", b"User-Agent: a (b; c) d/1.0"),
            *(b"X-Request-Id: mine", b"x-request-id: other", b"X-Request-Id: a b"),
            *(b"X-Llumnix-Class: high", b"x-request-priority: normal", b"X-Llumnix-Class: none"),
            *(b"Authorization: Bearer k", b"X-Api-Key: k", b"Connection: keep-alive"),
            *(
                b"Connection: close",
                b"Connection: X-Custom",
                b"Keep-Alive: timeout=5",
                b"X-Custom: 1",
            ),
            *(b"Expect: 100-continue", b"Origin: http://y", b"TE: trailers", b"Cookie: a=b; c=d"),
            *(
                b"X-Empty:",
                b"X-Spaced:   a b  ",
                b"X-Tab:\tq",
                b"X-Latin: \xe9",
                b"X-Two: a",
                b"X-Two: b",
            ),
            *(
                b"X Bad: 1",
                b"X-Bad : 1",
                b": 1",
                b"X-Folded: a\r\n b",
                b"X-Nul: \x00",
                b"X-LF: a\nb",
            ),
            *(
                b"Transfer-Encoding: chunked",
                b"Content-Length: 3",
                b"Host: y",
                b"Content-Encoding: gzip",
            ),
        ]
    ),
    max_size=4,
).map(tuple)
LENGTHS = st.sampled_from([None, None, None, None, b"+5", b"0", b"05", b"1e1", b"-1", b"5, 5", b""])
PATHS = st.sampled_from(
    [
        *(b"/v1/completions", b"/v1/completions", b"/v1/chat/completions", b"/v1/completions?a=b"),
        *(b"/v1//completions", b"/v1/completions/", b"//v1/completions", b"/nothing"),
    ]
)
OTHERS = st.sampled_from(
    [
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"\r\n",
    ]
)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Draw requests on one connection, cut into pieces anywhere."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 4)) == 0:
            made.append(draw(OTHERS))
        else:
            raw = draw(BODIES)
            given_length = draw(LENGTHS)
            made.append(request(raw, path=draw(PATHS), headers=draw(HEADERS), length=given_length))
    sent = b"".join([*made, LAST])
    starts = [0]
    for each in made:
        starts.append(starts[-1] + len(each))
    whole = draw(st.booleans())
    anywhere = draw(st.lists(st.integers(1, len(sent) - 1), max_size=4))
    cuts = sorted({*(starts[1:] if whole else ()), *anywhere})
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@SLOW_BUT_SURE
@given(conversations())
@example([request(body()), request(body(stream=True)), LAST])
@example([request(body())[:-5], request(body())[-5:], LAST])
@example([request(body()) + request(body(stream=True)) + LAST])
@example([request(body())[:30], request(body())[30:], request(body()), LAST])
@example([b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/comp", request(body())[12:], LAST])
def test_what_is_sent_is_answered_the_same_either_way(both: Both, pieces: list[bytes]) -> None:
    short, long = both.say(pieces)
    assert comparable(short) == comparable(long)
    first, second = both.heard()
    assert [comparable(raw) for raw, _ in first] == [comparable(raw) for raw, _ in second]
    for (_, ours), (_, theirs) in zip(first, second, strict=True):
        assert [_told(*each) for each in ours] == [_told(*each) for each in theirs]


def _told(name: str, value: str) -> tuple[str, str]:
    ours = name.lower() == "x-request-id" and len(value) == 24
    return name.lower(), "<id>" if ours or name.lower() == "host" else value


def test_plain_requests_do_take_the_short_way(both: Both) -> None:
    taken = both.stages[0].server._lane
    assert taken is not None
    before = taken.taken
    both.say([request(body()), request(body(stream=True)), LAST])
    both.heard()
    assert taken.taken == before + 2
