"""The compiled pump passes on what Python would, byte for byte, or hands it back untouched."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.frontend.http.response import ResponseReader
from llumnix.frontend.pump.library import NoCompiler, load_library
from llumnix.frontend.pump.pump import Flow, Hide, Pump
from llumnix.frontend.splicing.leg_filter import LegFilter, as_it_is
from llumnix.frontend.splicing.sse import with_token_ids_nulled, without_token_ids

HIDES = {
    Hide.NOTHING: as_it_is,
    Hide.NULLED: with_token_ids_nulled,
    Hide.REMOVED: without_token_ids,
}
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    try:
        load_library()
    except NoCompiler as error:
        pytest.skip(f"NOT TESTED: the compiled pump cannot be built here: {error}")


@dataclass
class Ledger:
    parts: list[bytes] = field(default_factory=list)

    def add(self, data: bytes) -> None:
        self.parts.append(data)


@dataclass
class Stand:
    """A pump between two pairs of sockets, and what has come of it."""

    pump: Pump
    instance: socket.socket
    upstream: socket.socket
    downstream: socket.socket
    client: socket.socket
    stops: list[bool] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def begin(self, hide: Hide, *, plugged: bool, body: bytes = b"", raw: bytes = b"") -> Flow:
        flow = self.pump.begin(
            (self.upstream.fileno(), self.downstream.fileno()),
            *(hide, self.ledger, lambda: self.stops.append(True)),
            plugged=plugged,
            body=body,
            raw=raw,
        )
        assert flow is not None
        return flow

    def turn(self, data: bytes) -> None:
        self.instance.sendall(data)
        self.pump._turn()  # as the event loop would once the socket can be read

    def received(self) -> bytes:
        got = b""
        self.client.setblocking(False)
        while True:
            try:
                part = self.client.recv(1 << 20)
            except BlockingIOError:
                return got
            if not part:
                return got
            got += part


@contextmanager
def stand() -> Iterator[Stand]:
    loop = asyncio.new_event_loop()
    pairs = [*socket.socketpair(), *socket.socketpair()]

    async def made() -> Pump:
        return Pump()

    pump = loop.run_until_complete(made())
    try:
        instance, upstream, downstream, client = pairs
        yield Stand(pump, instance, upstream, downstream, client)
    finally:
        pump.close()
        for each in pairs:
            each.close()
        loop.close()


def unchunked(data: bytes) -> bytes:
    """Decode what a client got, which must be whole chunks."""
    reader = ResponseReader()
    return reader.feed(HEAD + data)


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


VALUES = st.sampled_from([b"null", b"[]", b"[1]", b"[1,2, 3]", b"7", b"{}"])
UNCLOSED = st.just(b"[")
NAMES = st.sampled_from(
    [
        *(b'"token_ids":', b'"prompt_token_ids":', b'"xtoken_ids":', b'token_ids":'),
        *(b'"text":', b'\\"token_ids\\":', b'"delta":{}', b'"error"', b'"stop_reason":"'),
    ]
)
MEMBERS = st.tuples(st.sampled_from([b",", b"", b"{"]), NAMES)
OTHER = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"data: ", b'" hello"', b"]", b"\xc3\xa9"]),
)
PIECES = st.one_of(st.tuples(MEMBERS.map(b"".join), VALUES).map(b"".join), OTHER)
TORN = st.one_of(PIECES, st.tuples(MEMBERS.map(b"".join), UNCLOSED).map(b"".join))
EVENTS = st.lists(PIECES, max_size=8).map(
    lambda pieces: b"data: {" + b"".join(pieces).replace(b"\n\n", b"") + b"}\n\n"
)
CHUNKS = st.lists(st.lists(EVENTS, min_size=1, max_size=3).map(b"".join), min_size=1, max_size=6)


@given(
    st.lists(TORN, max_size=12).map(lambda parts: b"".join(parts).rstrip(b"\r\n") + b"\n\n"),
    st.sampled_from(list(Hide)),
)
@settings(max_examples=300, deadline=None)
def test_ids_are_hidden_as_python_hides_them(data: bytes, hide: Hide) -> None:
    with stand() as it:
        flow = it.begin(hide, plugged=False)
        it.turn(framed(data))
        rest = flow.end()
        got = unchunked(it.received())
    if it.stops:
        assert (rest.body, got) == (data, b"")
        odd = b'"error"' in data or (hide is Hide.NULLED and b'"delta":{}' in data)
        assert odd
    else:
        assert rest.body == rest.raw == b""
        assert got == HIDES[hide](data)


@given(CHUNKS, st.sampled_from(list(Hide)), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_the_client_and_the_ledger_get_what_python_gives_them(
    chunks: list[bytes], hide: Hide, plugged: bool, data: st.DataObject
) -> None:
    wire = b"".join(framed(chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    def strand() -> LegFilter:
        return LegFilter(None, plugged=plugged, hide=HIDES[hide], event_limit_bytes=1 << 20)

    expected = strand()
    plain = expected.feed(b"".join(chunks))

    reader, ours = ResponseReader(), strand()
    reader.feed(HEAD)
    with stand() as it:
        flow: Flow | None = it.begin(hide, plugged=plugged)
        shown = b""
        for piece in pieces:
            if flow is None:
                shown += ours.feed(reader.feed(piece))
                continue
            it.turn(piece)
            if it.stops:
                rest = flow.end()
                flow = None
                assert rest.unsent == b""
                shown += unchunked(it.received())
                shown += ours.feed(rest.body)
                shown += ours.feed(reader.feed(rest.raw))
        if flow is not None:
            rest = flow.end()
            shown += unchunked(it.received())
            shown += ours.feed(rest.body)
            shown += ours.feed(reader.feed(rest.raw))
    passed_on = b"".join(it.ledger.parts)
    assert reader.done
    assert shown == plain
    assert passed_on + ours.ledger.raw() == expected.ledger.raw()
    assert (ours.let_go, ours.error) == (expected.let_go, expected.error)


def test_what_the_socket_does_not_take_is_handed_back() -> None:
    event = b"data: " + b"x" * 60_000 + b"\n\n"
    with stand() as it:
        it.downstream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        flow = it.begin(Hide.NOTHING, plugged=False)
        it.instance.setblocking(False)
        sent = 0
        while not it.stops and sent < 100:
            it.turn(framed(event))
            sent += 1
        rest = flow.end()
        assert it.stops
        assert rest.unsent
        assert unchunked(it.received() + rest.unsent) + rest.body == event * sent
    assert b"".join(it.ledger.parts) == event * sent


@pytest.mark.parametrize(
    "raw",
    [
        b"0\r\n\r\n",
        b"5;x=1\r\nabc\n\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"5\r\nabc\n\nXX",
        b"123456789\r\n",
    ],
    ids=["the end", "an extension", "no number", "negative", "longer than told", "a huge chunk"],
)
def test_a_chunk_that_is_not_plain_is_handed_back_as_it_came(raw: bytes) -> None:
    before = b"data: 1\n\n"
    with stand() as it:
        flow = it.begin(Hide.REMOVED, plugged=True)
        it.turn(framed(before) + raw)
        rest = flow.end()
        assert it.stops
        assert (rest.unsent, rest.body, rest.raw) == (b"", b"", raw)
        assert unchunked(it.received()) == before


def test_what_was_read_before_comes_first() -> None:
    with stand() as it:
        flow = it.begin(Hide.NOTHING, plugged=False, body=b"data: ", raw=b"3\r")
        it.turn(b"\n1\n\n\r\n")
        assert unchunked(it.received()) == b"data: 1\n\n"
        assert flow.end().raw == b""
    assert it.ledger.parts == [b"data: 1\n\n"]


def test_the_end_of_a_connection_stops_the_stream() -> None:
    with stand() as it:
        flow = it.begin(Hide.NOTHING, plugged=False)
        it.instance.close()
        it.pump._turn()
        assert it.stops
        flow.end()
        assert len(it.pump) == 0


def test_places_are_used_again_and_sockets_given_back() -> None:
    with stand() as it:
        for _ in range(3):
            flow = it.begin(Hide.NOTHING, plugged=False)
            it.turn(framed(b"data: 1\n\n"))
            flow.end()
        assert unchunked(it.received()) == b"data: 1\n\n" * 3
        it.turn(framed(b"data: 2\n\n"))
        assert it.received() == b""
        assert it.upstream.recv(100) == framed(b"data: 2\n\n")


def test_a_keeper_is_told_now_and_then_and_when_asked() -> None:
    event = b"data: " + b"y" * 1000 + b"\n\n"
    with stand() as it:
        flow = it.begin(Hide.NOTHING, plugged=False)
        for _ in range(10):
            it.turn(framed(event))
            it.received()
        assert it.ledger.parts, "8 KiB have gone by"
        flow.settle()
        assert b"".join(it.ledger.parts) == event * 10
        flow.end()


def test_a_descriptor_that_is_another_clients_by_now_is_not_written_to() -> None:
    with stand() as it:
        flow = it.begin(Hide.NOTHING, plugged=False)
        number = it.downstream.fileno()
        it.downstream.close()  # as an event loop may do before anybody is told
        other, theirs = socket.socketpair()
        with other, theirs:
            assert number in (other.fileno(), theirs.fileno())
            it.turn(framed(b"data: 1\n\n"))
            rest = flow.end()
            for each in (other, theirs):
                each.setblocking(False)
                with pytest.raises(BlockingIOError):
                    each.recv(100)
        assert it.stops
        assert rest.unsent == framed(b"data: 1\n\n")


def test_a_flow_that_has_left_reads_nothing() -> None:
    with stand() as it:
        flow = it.begin(Hide.NOTHING, plugged=False)
        flow.leave()
        it.turn(framed(b"data: 1\n\n"))
        assert it.received() == b""
        assert it.upstream.recv(100) == framed(b"data: 1\n\n")
        flow.end()
