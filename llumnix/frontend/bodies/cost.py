"""Whether a body is parsed at once or by a helper: what it would cost the event loop. Pure."""

from typing import Final

_SMALL_BYTES: Final = 16 * 1024
_LARGE_BYTES: Final = 1024 * 1024
_PARTS: Final = (b"{", b"[", b",", b"\\")
_PARTS_LIMIT: Final = 10_000


def is_cheap(body: bytes) -> bool:
    """Whether parsing a body takes a few milliseconds at the most.

    The cost of JSON is in its parts, each of which becomes an object, far more than in its length;
    counting them is some ten times faster than parsing.
    """
    if len(body) <= _SMALL_BYTES:
        return True
    return len(body) <= _LARGE_BYTES and sum(map(body.count, _PARTS)) <= _PARTS_LIMIT
