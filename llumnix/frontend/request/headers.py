"""Which headers are forwarded: all but those that concern a single connection."""

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict, CIMultiDictProxy

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
REQUEST_ID = "X-Request-Id"
CLASS = "X-Llumnix-Class"

KEY_HEADERS = ("Authorization", "X-Api-Key")
"""Where clients put their key: OpenAI's header, and Anthropic's."""

# Ours to set on our own connection. Compressed bodies have been unpacked on their way in.
_OURS = frozenset({"host", "content-length", "content-encoding", "expect"})


def identity(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which an instance knows who asks."""
    return {name: headers[name] for name in KEY_HEADERS if name in headers}


def to_instance(
    headers: CIMultiDictProxy[str], request_id: str, class_name: str
) -> CIMultiDict[str]:
    """Return the headers of a completion request on its way to an instance."""
    # A compressed stream could be neither followed nor spliced, so none is requested.
    onward = end_to_end(headers, _OURS | {"accept-encoding"})
    onward[REQUEST_ID] = request_id
    onward[CLASS] = class_name
    return onward


def to_instance_as_is(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return the headers of any other request, whose body and length are unchanged."""
    packed = "Content-Encoding" in headers
    return end_to_end(headers, _OURS if packed else _OURS - {"content-length"})


def to_client(
    headers: CIMultiDictProxy[str], request_id: str, *, streams: bool
) -> CIMultiDict[str]:
    """Return the headers of an instance's response on its way to the client, with its own id."""
    onward = sendable(end_to_end(headers, {"content-length"} if streams else ()))
    onward[REQUEST_ID] = request_id
    return onward


def end_to_end(headers: CIMultiDictProxy[str], drop: Iterable[str] = ()) -> CIMultiDict[str]:
    """Copy the headers meant for the far end, repeated ones included; `drop` is in lower case."""
    dropped = _HOP_BY_HOP.union(drop)
    for value in headers.getall("Connection", ()):
        dropped = dropped.union(name.strip().lower() for name in value.split(","))
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in dropped
    )


def sendable(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return headers in UTF-8, as aiohttp sends them; old software writes values in Latin-1."""
    if all(value.isascii() for value in headers.values()):
        return headers
    return CIMultiDict((name, _in_utf8(value)) for name, value in headers.items())


def _in_utf8(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value
