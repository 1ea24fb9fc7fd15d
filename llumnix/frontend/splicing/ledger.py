"""A stream's ledger: the raw bytes that an instance sent, and when the first and last arrived.

Bytes are kept as they arrived, older ones compressed, and parsed only if the stream has to move. A
stream's events differ in little more than their text and ids: with the first of them as dictionary
a token takes some ten bytes, and a block of them a few microseconds.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from llumnix.frontend.splicing import sse

_PACK_BYTES = 8 * 1024
_DICTIONARY_BYTES = 2 * 1024
_LEVEL = 1
_RAW_DEFLATE = -15


class Ledger:
    """What one instance sent for one stream, in whole events. Times are wall seconds.

    `behind` is set while somebody else passes events on: it adds those that are not here yet.
    """

    __slots__ = (
        *("_dictionary", "_loose", "_loose_bytes", "_packed", "_packed_chunks", "_packed_tokens"),
        *("behind", "last"),
    )

    def __init__(self) -> None:
        self.last = b""
        self.behind: Callable[[], None] | None = None
        self._dictionary = b""
        self._loose: list[bytes] = []
        self._loose_bytes = 0
        self._packed: list[tuple[int, bytes]] = []
        self._packed_tokens = 0
        self._packed_chunks = 0

    def add(self, data: bytes) -> None:
        """Append whole events; called for every token, so it does almost nothing."""
        self.last = data
        self._loose.append(data)
        self._loose_bytes += len(data)
        if self._loose_bytes > _PACK_BYTES:
            self._pack()

    def raw(self) -> bytes:
        """Return everything, byte for byte."""
        return self.after(0)

    def after(self, size: int) -> bytes:
        """Return everything after this many bytes."""
        self._catch_up()
        parts, start = [], 0
        for length, block in self._packed:
            if start + length > size:
                parts.append(self._unpacked(block)[max(0, size - start) :])
            start += length
        loose = b"".join(self._loose)
        return b"".join([*parts, loose[max(0, size - start) :]])

    def token_ids(self) -> list[int]:
        """Return the output token ids in these events."""
        return sse.token_ids(self.raw())

    def held_bytes(self) -> int:
        """Return how many bytes it holds in memory, about."""
        return self._loose_bytes + sum(len(block) for _, block in self._packed)

    def tokens(self) -> int:
        """Count the output tokens in these events, by their ids."""
        self._catch_up()
        return self._packed_tokens + sse.count_token_ids(b"".join(self._loose))

    def chunks(self) -> int:
        """Count the chunks in these events, which must be without token ids."""
        self._catch_up()
        return self._packed_chunks + sse.count_chunks(b"".join(self._loose))

    def __bool__(self) -> bool:
        self._catch_up()
        return bool(self._loose or self._packed)

    def _catch_up(self) -> None:
        if self.behind is not None:
            self.behind()

    def _pack(self) -> None:
        block = b"".join(self._loose)
        if not self._packed:
            self._dictionary = block[:_DICTIONARY_BYTES]
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, zdict=self._dictionary)
        self._packed.append((len(block), packer.compress(block) + packer.flush()))
        ids = sse.count_token_ids(block)
        self._packed_tokens += ids
        if not ids:  # else nobody asks; at the end, counting all of them would take too long
            self._packed_chunks += sse.count_chunks(block)
        self._loose.clear()
        self._loose_bytes = 0

    def _unpacked(self, block: bytes) -> bytes:
        return zlib.decompressobj(_RAW_DEFLATE, zdict=self._dictionary).decompress(block)


@dataclass(slots=True)
class Pace:
    """When a client's stream began, its pace, and how long moves have paused it.

    Wall seconds. A *gap* is the time between the last bytes from one instance and the first new
    ones from the next; the token's own compute is in it.
    """

    first_at: float = 0.0
    last_at: float = 0.0
    gaps_s: float = 0.0
    moves: int = 0

    def mean_interval_s(self, tokens: int) -> float:
        """Return the mean time between tokens, without gaps; 0 for fewer than two tokens."""
        steps = tokens - 1 - self.moves
        return max(0.0, self.last_at - self.first_at - self.gaps_s) / steps if steps > 0 else 0.0

    def add_gap(self, gap_s: float) -> None:
        """Add the gap of a move."""
        self.gaps_s += gap_s
        self.moves += 1
