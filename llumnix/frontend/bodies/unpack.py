"""Unpacking compressed bodies within a bound, without trusting what they claim to be. Pure."""

import zlib
from dataclasses import dataclass
from typing import Final

ENCODINGS: Final = ("gzip", "x-gzip", "deflate", "identity")
_STEP_BYTES: Final = 256 * 1024
_FREE_BYTES: Final = 1024 * 1024
"""Below this, how far a body expands is nobody's business."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large an unpacked body may be, and how many times its packed size."""

    limit_bytes: int
    expansion_limit: int

    def allows(self, packed_bytes: int, unpacked_bytes: int) -> bool:
        """Whether so much may come out of so much."""
        if unpacked_bytes > self.limit_bytes:
            return False
        return unpacked_bytes <= max(_FREE_BYTES, self.expansion_limit * packed_bytes)


class TooLarge(Exception):  # noqa: N818 - an outcome, told to the client
    """The body expands beyond its bounds."""


class Corrupt(Exception):  # noqa: N818 - an outcome, told to the client
    """The body is not what its Content-Encoding says."""


def unpack(packed: bytes, encoding: str, bounds: Bounds) -> bytes:
    """Return the unpacked body; `encoding` is one of ENCODINGS.

    Raises TooLarge as soon as a bound is passed, and Corrupt. It releases the GIL while it unpacks,
    so it may run in a thread beside the event loop.
    """
    if encoding == "identity":
        return packed
    parts: list[bytes] = []
    size, rest = 0, packed
    while True:
        inflater = _inflater(encoding, rest)
        try:
            while not inflater.eof:
                part = inflater.decompress(rest, _STEP_BYTES)
                rest = inflater.unconsumed_tail
                size += len(part)
                if not bounds.allows(len(packed), size):
                    raise TooLarge
                parts.append(part)
                if not part and not rest and not inflater.eof:
                    raise Corrupt("it ends too early")
        except zlib.error as error:
            raise Corrupt(str(error)) from error
        rest = inflater.unused_data
        if not rest or encoding == "deflate":
            return b"".join(parts)
        # A gzip file may have several members, one after the other.


def _inflater(encoding: str, data: bytes) -> "zlib._Decompress":
    if encoding != "deflate":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    # The standard means zlib's format; some clients send a bare stream, as some servers do.
    wrapped = len(data) >= 2 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return zlib.decompressobj(wbits=zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
