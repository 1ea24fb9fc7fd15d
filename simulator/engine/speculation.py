"""Speculative decoding: a step yields as many tokens as were guessed right, and one more.

Beside the regular token of every decoding request, a step computes some that a small model (or a
lookup in the earlier text) guessed to follow. It keeps those before the first wrong one, and the
token the model itself puts there. If each guess is right with probability a, k of them make a step
yield (1 - a^(k+1)) / (1 - a) tokens on average.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from policies.types import RequestId
from simulator.costs.model import CostModel
from simulator.streams import stream

_DRAWN_AT_ONCE = 256
_COUNTED_AT_ONCE = 1 << 20
MOST_GUESSES = 255
"""The largest count of `Guesses.all_right`: each takes a byte."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How many tokens are guessed, how often a guess is right, and the cost of guessing.

    `draft_ns` is the time in which one token is guessed for each request of a batch; tokens are
    guessed one after the other. Raises ValueError for inconsistent values.
    """

    draft_tokens: int
    acceptance: float
    draft_ns: int = 0

    def __post_init__(self) -> None:
        if self.draft_tokens < 1 or self.draft_ns < 0:
            raise ValueError("speculation needs at least one draft token and a time of 0 or more")
        if not 0.0 <= self.acceptance <= 1.0:
            raise ValueError(f"acceptance must be within [0, 1], not {self.acceptance}")

    @property
    def tokens_per_step(self) -> float:
        """Return how many tokens a step yields per request, on average."""
        return sum(self.acceptance**guessed for guessed in range(self.draft_tokens + 1))

    @property
    def drafting_ns(self) -> int:
        """Return the time for guessing in a step."""
        return self.draft_ns * self.draft_tokens

    def step_ns(
        self,
        costs: CostModel,
        chunks: Iterable[tuple[int, int]],
        batch_size: int,
        context_tokens: int,
    ) -> int:
        """Cost of a step as `CostModel.step_ns`, guesses included.

        A guess costs what a prompt of one token does: KV is read once for all of a request's
        tokens, and where memory bounds the step, guesses cost next to nothing.
        """
        guessed = ((0, 1),) * (self.draft_tokens * batch_size)
        drafting_ns = self.drafting_ns if batch_size else 0
        return costs.step_ns((*chunks, *guessed), batch_size, context_tokens) + drafting_ns


class Guesses:
    """Decides which guesses are right, for all instances of a fleet.

    That is drawn once per position of each request's output, from a separate stream: it depends
    neither on where a request runs, nor on what else runs there.
    """

    def __init__(self, speculation: Speculation, seed: int) -> None:
        self.speculation = speculation
        self._seed = seed
        self._drawn: dict[RequestId, tuple[int, bytes]] = {}

    def right(self, request_id: RequestId, position: int) -> int:
        """Count the right guesses of a step that guesses outputs from this position on."""
        most = self.speculation.draft_tokens
        for count in range(most):
            if not self._is_right(request_id, position + count):
                return count
        return most

    def all_right(self, outputs: Iterable[tuple[RequestId, int]]) -> bytearray:
        """Return `right` for every position of requests' outputs, of so many tokens each.

        One byte per token, one request after the other; no guess past the end of its output counts.
        Raises ValueError where a count would not fit in a byte.
        """
        most = self.speculation.draft_tokens
        if most > MOST_GUESSES:
            raise ValueError(f"{most} guesses do not fit in a byte")
        right = bytearray()
        for request_id, tokens in outputs:
            parts = range(-(-(tokens - 1) // _DRAWN_AT_ONCE))
            right += b"".join(self._draw(request_id, part) for part in parts)[: tokens - 1]
            right.append(False)
        _count_in_a_row(np.frombuffer(right, dtype=np.uint8), most)
        return right

    def forget(self, request_id: RequestId) -> None:
        """Drop the draws of a request; drawn again, they would be the same."""
        self._drawn.pop(request_id, None)

    def _is_right(self, request_id: RequestId, position: int) -> bool:
        part, place = divmod(position, _DRAWN_AT_ONCE)
        drawn = self._drawn.get(request_id)
        if drawn is None or drawn[0] != part:
            drawn = self._drawn[request_id] = part, self._draw(request_id, part)
        return bool(drawn[1][place])

    def _draw(self, request_id: RequestId, part: int) -> bytes:
        draws = stream(self._seed, f"speculation/{request_id}/{part}").random(_DRAWN_AT_ONCE)
        return bytes(draws < self.speculation.acceptance)


def _count_in_a_row(right: np.ndarray[tuple[int], np.dtype[np.uint8]], most: int) -> None:
    """Replace each 1 by the number of consecutive 1s from there on, or `most`.

    The last must be a 0. Done in parts, since there may be hundreds of millions.
    """
    for _ in range(most - 1):
        for start in range(0, len(right) - 1, _COUNTED_AT_ONCE):
            end = min(start + _COUNTED_AT_ONCE, len(right) - 1)
            right[start:end] = (right[start:end] > 0) * (1 + right[start + 1 : end + 1])
