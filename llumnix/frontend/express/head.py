"""The heads of requests that are plain beyond doubt, read without a parser of HTTP.

Stricter than any HTTP parser: one spelling of each thing, no repeated framing, no option of the
protocol. Whatever is not exactly so is left to aiohttp's parser, from its first byte.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.frontend.request.headers import KEY_HEADERS

_NAME = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)"
_VALUE = rb"([\x21-\x7e\x80-\xff](?:[\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?)?"
_LINE = re.compile(_NAME + rb": ?" + _VALUE)
_REQUEST = re.compile(rb"(GET|POST) (/[\x21-\x7e]*) HTTP/1\.1")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")
_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 256

_OURS: Final = frozenset({b"host", b"accept-encoding", b"keep-alive"})
"""Not forwarded: they concern one connection, or are ours to set."""
_NOTED: Final = frozenset({b"x-request-id", b"x-llumnix-class"})
"""Not forwarded either, since we set them; read here."""
_ODD: Final = frozenset(
    {
        *(b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"content-encoding"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"origin"),
        *(b"last-event-id", b"http2-settings"),
    }
)


@dataclass(frozen=True, slots=True)
class _Line:
    """One header. `name` is in lower case; `forward` is empty if it is not forwarded."""

    name: bytes
    value: bytes
    forward: bytes
    odd: bool


@dataclass(frozen=True, slots=True)
class PlainHead:
    """The head of a plain request. `onward` are the header lines to forward, each with its end.

    `unsigned` is the same without Authorization. `noted` are the headers that mean something to
    the frontend, by their usual names.
    """

    method: bytes
    path: bytes
    length_bytes: int
    onward: bytes
    unsigned: bytes
    noted: Mapping[str, str]
    lines: tuple[bytes, ...]

    def without_keys(self) -> "PlainHead":
        """Return the head of a client whose key is ours, and is not to be sent on."""
        kept = [line for line in self.lines if not line.lower().startswith(_KEY_LINES)]
        if len(kept) == len(self.lines):
            return self
        rest = b"".join(
            line
            for line in self.onward.splitlines(keepends=True)
            if not line.lower().startswith(_KEY_LINES)
        )
        return replace(self, onward=rest, unsigned=rest, lines=tuple(kept))

    def headers(self) -> CIMultiDictProxy[str]:
        """Return all headers, as aiohttp would."""
        made: CIMultiDict[str] = CIMultiDict()
        for line in self.lines:
            name, _, value = line.partition(b":")
            made.add(name.decode(), value.strip(b" \t").decode("utf-8", "surrogateescape"))
        return CIMultiDictProxy(made)


_KEY_LINES: Final = tuple(f"{name}:".lower().encode() for name in KEY_HEADERS)
_NAMES: Final = {
    **{name.lower().encode(): name for name in KEY_HEADERS},
    b"x-request-id": "X-Request-Id",
    b"x-llumnix-class": "X-Llumnix-Class",
    b"x-request-priority": "X-Request-Priority",
}


class HeadReader:
    """Reads heads; it remembers header lines, which clients repeat from request to request."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Line] = {}

    def read(self, head: bytes) -> PlainHead | None:
        """Read a head without the blank line at its end; None if it is not plain."""
        first, *rest = head.split(b"\r\n")
        request = _REQUEST.fullmatch(first)
        if request is None:
            return None
        known, length, seen_host = self._known, -1, False
        noted: dict[str, str] = {}
        onward: list[bytes] = []
        unsigned: list[bytes] = []
        for text in rest:
            line = known.get(text) or self._line(text)
            if line is None or line.odd:
                return None
            name = line.name
            if line.forward:
                onward.append(line.forward)
                if name != b"authorization":
                    unsigned.append(line.forward)
            elif name == b"host":
                if seen_host:
                    return None
                seen_host = True
            elif name == b"content-length":
                if length >= 0:
                    return None
                length = int(line.value)
            known_as = _NAMES.get(name)
            if known_as is not None:
                if known_as in noted:
                    return None
                noted[known_as] = line.value.decode("utf-8", "surrogateescape")
        if not seen_host:
            return None
        joined = b"".join(onward)
        method, path = request.groups()
        return PlainHead(
            method,
            path,
            max(0, length),
            joined,
            joined if len(unsigned) == len(onward) else b"".join(unsigned),
            noted,
            tuple(rest),
        )

    def _line(self, text: bytes) -> _Line | None:
        found = _LINE.fullmatch(text)
        if found is None:
            return None
        name, value = found[1].lower(), found[2] or b""
        odd = name in _ODD
        if name == b"content-length":
            odd = _LENGTH.fullmatch(value) is None
        elif name == b"connection":
            odd = value.lower() != b"keep-alive"
        dropped = name in _OURS or name in _NOTED or name in (b"content-length", b"connection")
        line = _Line(name, value, b"" if dropped else b"%b: %b\r\n" % (found[1], value), odd)
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[text] = line
        return line
