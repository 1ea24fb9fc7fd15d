"""Streams kept for clients that may come back: what they were sent, and how to go on from it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict

from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.splicing.ledger import Ledger

KEPT_S: Final = 60.0
"""Wall seconds."""
MAX_BYTES: Final = 64 << 20
_TOKEN_BYTES: Final = 40
_STREAM_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class KeptStream:
    """One stream; `owner` is whose it was and what it asked. `whole`: nothing is to follow."""

    owner: str
    status: int
    headers: CIMultiDict[str]
    sent: Ledger
    record: DeliveredStream
    whole: bool

    def weight(self) -> int:
        """Return the bytes that it holds, about."""
        had = self.record.had
        texts = sum(map(len, had.texts.values()))
        ids = len(had.token_ids) + len(had.prompt_ids)
        return _STREAM_BYTES + self.sent.held_bytes() + texts + _TOKEN_BYTES * ids


class KeptStreams:
    """Streams by request id, for a minute, bounded in bytes: the oldest go first."""

    def __init__(self, clock: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self.being_given: set[str] = set()
        """Requests whose client is being given its answer now."""
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[float, int, KeptStream]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, request_id: str, stream: KeptStream) -> None:
        """Keep a stream whose connection has ended."""
        self._drop(request_id)
        weight = stream.weight()
        self._kept[request_id] = (self._clock(), weight, stream)
        self._bytes += weight
        self._trim()

    def take(self, request_id: str, owner: str) -> KeptStream | None:
        """Take a stream for its owner."""
        self._trim()
        _, _, stream = self._kept.get(request_id, (0.0, 0, None))
        if stream is None or stream.owner != owner:
            return None
        self._drop(request_id)
        return stream

    def _trim(self) -> None:
        oldest_s = self._clock() - KEPT_S
        while self._kept:
            request_id, (at_s, _, _) = next(iter(self._kept.items()))
            if at_s >= oldest_s and self._bytes <= self._max_bytes:
                return
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        _, weight, _ = self._kept.pop(request_id, (0.0, 0, None))
        self._bytes -= weight
