"""Frames on the link: u32 length (network order) | msgpack list of messages. Without I/O.

All messages of one turn of the event loop travel in one frame, and are written at once.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgpack

_LENGTH: Final = struct.Struct("!I")
MAX_FRAME_BYTES: Final = 64 << 20
"""More than any frame has: a table of thousands of instances, or 100,000 requests that are open."""

Message = Sequence[Any]
"""The number of its kind, and what it says."""


class Malformed(Exception):  # noqa: N818 - what the other end did
    """What arrived is no frame."""


def frame(messages: Sequence[Message]) -> bytes:
    """Encode messages as one frame."""
    packed: bytes = msgpack.packb(messages, use_bin_type=True)
    return _LENGTH.pack(len(packed)) + packed


class Unframer:
    """Takes bytes as they arrive, and gives the messages of every frame that is complete."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Give the messages that these bytes complete; raises Malformed."""
        self._left += data
        while len(self._left) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._left)
            if not 0 < length <= self._max_frame_bytes:
                raise Malformed(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._left) < end:
                return
            packed = bytes(self._left[_LENGTH.size : end])
            del self._left[:end]
            yield from _messages(packed)


def _messages(packed: bytes) -> list[Message]:
    try:
        messages = msgpack.unpackb(packed, raw=False, strict_map_key=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Malformed(f"no msgpack: {error}") from error
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise Malformed("a frame holds a list of messages")
    return messages


def _is_message(message: object) -> bool:
    return isinstance(message, list) and bool(message) and type(message[0]) is int
