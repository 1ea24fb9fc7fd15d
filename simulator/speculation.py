"""Speculative decoding: a step yields as many tokens as were guessed right, and one more.

Beside the usual token of every decoding request, a step computes some that a small model (or a look
at what came before) guessed to follow. It keeps those before the first wrong one, and the token the
model itself puts there. If each guess is right with probability a, k of them make a step yield
(1 - a^(k+1)) / (1 - a) tokens on average.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.types import RequestId
from simulator.cost_model import CostModel
from simulator.streams import stream

_DRAWN_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Speculation:
    """How many tokens are guessed, how often a guess is right, and what guessing takes.

    `draft_ns` is the time in which one token is guessed for each request of a batch; tokens are
    guessed one after the other. Raises ValueError for what makes no sense.
    """

    draft_tokens: int
    acceptance: float
    draft_ns: int = 0

    def __post_init__(self) -> None:
        if self.draft_tokens < 1 or self.draft_ns < 0:
            raise ValueError("speculation guesses one token or more, in no negative time")
        if not 0.0 <= self.acceptance <= 1.0:
            raise ValueError(f"acceptance must be within [0, 1], not {self.acceptance}")

    @property
    def tokens_per_step(self) -> float:
        """How many tokens a step yields for a request, on average."""
        return sum(self.acceptance**guessed for guessed in range(self.draft_tokens + 1))

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
        drafting_ns = self.draft_ns * self.draft_tokens if batch_size else 0
        return costs.step_ns((*chunks, *guessed), batch_size, context_tokens) + drafting_ns


class Guesses:
    """Says which guesses are right, for all instances of a fleet.

    That is drawn once for each position of each request's output, from a stream of its own: it
    depends neither on where a request runs, nor on what else runs there.
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

    def forget(self, request_id: RequestId) -> None:
        """Drop what was drawn for a request; drawn again, it would be the same."""
        self._drawn.pop(request_id, None)

    def _is_right(self, request_id: RequestId, position: int) -> bool:
        part, place = divmod(position, _DRAWN_AT_ONCE)
        drawn = self._drawn.get(request_id)
        if drawn is None or drawn[0] != part:
            draws = stream(self._seed, f"speculation/{request_id}/{part}").random(_DRAWN_AT_ONCE)
            drawn = self._drawn[request_id] = part, bytes(draws < self.speculation.acceptance)
        return bool(drawn[1][place])
