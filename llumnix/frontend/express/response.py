"""Responses as bytes, with the headers that aiohttp would send."""

from typing import Final

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RESPONSES, SERVER_SOFTWARE
from multidict import CIMultiDict

_BODYLESS: Final = frozenset({204, 304})
_BREAKING: Final = frozenset("\r\n\0")
_SPACED: Final = str.maketrans("\r\n\0", "   ")


def whole(status: int, headers: CIMultiDict[str], body: bytes, *, close: bool = False) -> bytes:
    """Return a response with its body."""
    if status in _BODYLESS:
        return _head(status, headers, b"", close=close)
    return _head(status, headers, b"Content-Length: %d\r\n" % len(body), close=close) + body


def beginning(status: int, headers: CIMultiDict[str]) -> bytes:
    """Return the head of a response whose body follows in chunks."""
    return _head(status, headers, b"Transfer-Encoding: chunked\r\n", close=False)


def of_aiohttp(response: web.Response, *, close: bool) -> bytes:
    """Return a response that was made for aiohttp to send."""
    headers = CIMultiDict(response.headers)
    headers.popall("Content-Length", None)
    body = response.body
    assert body is None or isinstance(body, bytes), "ours are bytes"
    return whole(response.status, headers, body or b"", close=close)


def _head(status: int, headers: CIMultiDict[str], framing: bytes, *, close: bool) -> bytes:
    reason = RESPONSES.get(status, ("",))[0]
    if any(not _BREAKING.isdisjoint(value) for value in headers.values()):
        # As RFC 9110 (5.5) has it: a space in place of what could end a line.
        headers = CIMultiDict((name, value.translate(_SPACED)) for name, value in headers.items())
    lines = [f"HTTP/1.1 {status} {reason}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if "Content-Type" not in headers and status not in _BODYLESS:
        lines.append("Content-Type: application/octet-stream\r\n")
    if "Date" not in headers:
        lines.append(f"Date: {rfc822_formatted_time()}\r\n")
    if "Server" not in headers:
        lines.append(f"Server: {SERVER_SOFTWARE}\r\n")
    if close:
        lines.append("Connection: close\r\n")
    return "".join(lines).encode("utf-8") + framing + b"\r\n"
