"""Prompts for requests whose length alone is known."""

from dataclasses import dataclass

from simulator.streams import stream
from simulator.workload.request import TraceRequest


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Random token ids in `[low_id, high_id)`, determined by the seed and the request's index.

    The range should hold plain words of the served model. The default suits the emulated model and
    any vocabulary of 4,096 tokens or more.
    """

    seed: int = 0
    low_id: int = 256
    high_id: int = 4095

    def __post_init__(self) -> None:
        if not 0 <= self.low_id < self.high_id:
            raise ValueError(f"not a range of token ids: {self.low_id} to {self.high_id}")

    def token_ids(self, request: TraceRequest) -> list[int]:
        """Return the prompt of a request, the same every time."""
        draws = stream(self.seed, f"prompt/{request.index}")
        ids: list[int] = draws.integers(self.low_id, self.high_id, request.prompt_tokens).tolist()
        return ids
