"""Reading HTTP responses: every framing, cut anywhere; nonsense is refused."""

import pytest

from llumnix.frontend.http.response import BadResponse, ResponseReader

BODY = b"data: one\n\ndata: two\n\n" + bytes(range(256))


def chunked(body: bytes, size: int, extra: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extra, chunk) for chunk in chunks)
    return framed + b"0\r\n" + trailers + b"\r\n"


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
RESPONSES = {
    "chunks": CHUNKED + chunked(BODY, 10),
    "one chunk": CHUNKED + chunked(BODY, 1000),
    "chunk extensions and trailers": CHUNKED + chunked(BODY, 7, b";a=b", b"X-T: 1\r\nX-U: 2\r\n"),
    "length": b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "after an interim response": b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + chunked(BODY, 10),
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_any_cut_in_two_gives_the_same_body(response: bytes) -> None:
    for at in range(len(response) + 1):
        reader = ResponseReader()
        assert reader.feed(response[:at]) + reader.feed(response[at:]) == BODY
        assert reader.done
        assert reader.head is not None
        assert reader.head.keeps
        reader.end()


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_piece_size_gives_the_same_body(response: bytes, size: int) -> None:
    reader = ResponseReader()
    pieces = [response[at : at + size] for at in range(0, len(response), size)]

    assert b"".join(map(reader.feed, pieces)) == BODY
    assert reader.done


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_closing_too_early_is_no_end(response: bytes) -> None:
    """However little is missing: a stream cut off must never pass for one that ended."""
    for at in range(len(response)):
        reader = ResponseReader()
        reader.feed(response[:at])
        with pytest.raises(BadResponse):
            reader.end()


def test_headers_are_read_as_they_are() -> None:
    reader = ResponseReader()
    reader.feed(RESPONSES["chunks"])

    assert reader.head is not None
    assert reader.head.status == 200
    assert reader.head.headers.getall("x-a") == ["1", "2"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("text/event-stream", "text/event-stream"), ("Text/Event-Stream; charset=utf-8",) * 2],
)
def test_the_content_type_is_read_without_parameters(value: str, kind: str) -> None:
    reader = ResponseReader()
    reader.feed(f"HTTP/1.1 200 OK\r\nContent-Type: {value}\r\n\r\n".encode())

    assert reader.head is not None
    assert reader.head.content_type == "text/event-stream"


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    got = reader.feed(b"HTTP/1.0 200 OK\r\n\r\n" + BODY) + reader.feed(BODY)
    assert not reader.done
    reader.end()

    assert got == 2 * BODY
    assert reader.done
    assert reader.head is not None
    assert not reader.head.keeps


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_some_responses_have_no_body(head: bytes) -> None:
    reader = ResponseReader()

    assert reader.feed(head) == b""
    assert reader.done


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
)
def test_some_connections_are_not_kept(head: bytes) -> None:
    reader = ResponseReader()
    reader.feed(head)

    assert reader.head is not None
    assert not reader.head.keeps


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 xxx OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-5\r\n",
        CHUNKED + b"2\r\nabc\r\n",
        CHUNKED + b"0\r\n\r\nmore",
        CHUNKED + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(BadResponse):
        ResponseReader().feed(nonsense)
