"""What an instance remembers of requests that have ended: their output, for a minute.

A client that has lost its connection may ask for the rest of its answer. Memory is bounded in
requests and in tokens; the oldest are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from migration.llumlet.fleet_messages import Recollection
from policies.types import RequestId

REMEMBERED_S: Final = 60.0
"""Wall seconds."""
MAX_REQUESTS: Final = 4096
MAX_OUTPUT: Final = 200_000
"""Longer outputs are not remembered: their ids would not fit into one message."""
MAX_TOKENS: Final = 1 << 20
"""At eight bytes each in a tuple, and up to 28 more for the number: some 36 MiB at most."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The output of a request that has ended; `owner` says whose it was and what it asked."""

    owner: str
    output_token_ids: tuple[int, ...]
    complete: bool


class Memory:
    """Outputs by request. `clock` gives wall seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        max_requests: int = MAX_REQUESTS,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self._clock = clock
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._tokens = 0
        self._ended: OrderedDict[RequestId, tuple[float, Ended]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ended)

    @property
    def tokens(self) -> int:
        """The tokens of all outputs remembered."""
        return self._tokens

    def note(self, request_id: RequestId, ended: Ended) -> None:
        """Remember a request that has ended, instead of an earlier one of the same id.

        One that is resumed, and cut off before it has come as far as before, is known as far as
        before.
        """
        _, before = self._ended.get(request_id, (0.0, None))
        if before is not None and before.owner == ended.owner and not ended.complete:
            known = before.output_token_ids
            if known[: len(ended.output_token_ids)] == ended.output_token_ids:
                ended = before
        self._forget(request_id)
        if len(ended.output_token_ids) > MAX_OUTPUT:
            return
        self._ended[request_id] = (self._clock(), ended)
        self._tokens += len(ended.output_token_ids)
        self._trim()

    def recall(self, request_id: RequestId, owner: str) -> tuple[Recollection, tuple[int, ...]]:
        """Return how a request ended, and its output; nothing is known of another owner's."""
        self._trim()
        _, ended = self._ended.get(request_id, (0.0, None))
        if ended is None or ended.owner != owner:
            return Recollection.UNKNOWN, ()
        state = Recollection.COMPLETE if ended.complete else Recollection.CUT
        return state, ended.output_token_ids

    def _trim(self) -> None:
        oldest_s = self._clock() - REMEMBERED_S
        while self._ended:
            request_id, (at_s, _) = next(iter(self._ended.items()))
            within = len(self._ended) <= self._max_requests and self._tokens <= self._max_tokens
            if within and at_s >= oldest_s:
                return
            self._forget(request_id)

    def _forget(self, request_id: RequestId) -> None:
        _, ended = self._ended.pop(request_id, (0.0, None))
        if ended is not None:
            self._tokens -= len(ended.output_token_ids)
