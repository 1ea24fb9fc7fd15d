"""Parse an HTTP response: status, body, and how much of the body each read delivered."""

from dataclasses import dataclass

import numpy as np

from llumnix.loadgen.exchange import Exchange
from policies.types import FloatColumn, IntColumn


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a body; only the body itself shows whether it is complete.

    `body_at_read[i]` bytes of the body had arrived at `read_times_s[i]`.
    """

    status: int
    body: bytes
    body_at_read: IntColumn
    read_times_s: FloatColumn

    def times_of(self, body_ends: IntColumn) -> FloatColumn:
        """Return when the body had been read up to each of these offsets."""
        reads = np.searchsorted(self.body_at_read, body_ends, side="left")
        times_s: FloatColumn = self.read_times_s[reads]
        return times_s


def parse_reply(exchange: Exchange) -> Reply | None:
    """Parse an exchange; None if not even the head of an HTTP response arrived."""
    head, blank, rest = exchange.raw.partition(b"\r\n\r\n")
    status, headers = _head(head)
    if not blank or status == 0:
        return None
    if headers.get("transfer-encoding", "").lower() == "chunked":
        starts, parts = _chunks(rest)
        body = b"".join(parts)
    else:
        starts, parts, body = [0], [rest], rest
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    read_ends = np.array(exchange.read_ends, dtype=np.int64) - (len(head) + len(blank))
    return Reply(
        status,
        body,
        _body_at(read_ends, np.array(starts, dtype=np.int64), sizes),
        np.array(exchange.read_times_s, dtype=np.float64),
    )


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        return 0, {}
    fields = (line.partition(":") for line in lines)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in fields}


def _chunks(data: bytes) -> tuple[list[int], list[bytes]]:
    """Undo chunked framing: return the position of each piece, and the pieces."""
    starts: list[int] = []
    parts: list[bytes] = []
    position = 0
    while True:
        line_end = data.find(b"\r\n", position)
        try:
            size = int(data[position:line_end].partition(b";")[0], 16) if line_end >= 0 else 0
        except ValueError:
            size = 0
        if size <= 0:
            return starts, parts
        start = line_end + 2
        starts.append(start)
        parts.append(data[start : start + size])
        position = start + size + 2


def _body_at(read_ends: IntColumn, starts: IntColumn, sizes: IntColumn) -> IntColumn:
    """Return how many bytes of the body lie before each offset into the framed bytes."""
    if not len(starts):
        return np.zeros_like(read_ends)
    before = np.cumsum(sizes) - sizes
    chunk = np.searchsorted(starts, read_ends, side="right") - 1
    inside = np.minimum(read_ends - starts[chunk], sizes[chunk])
    return np.where(chunk < 0, 0, before[chunk] + inside)
