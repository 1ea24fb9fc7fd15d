"""What an engine batches: requests, and the plan and the outcome of one step."""

import enum
from dataclasses import dataclass, field
from typing import Protocol

from policies.types import RequestId
from simulator.engine.prefix import Prefix


class Place(enum.Enum):
    """Where a request is in its engine."""

    QUEUED = "queued"
    BATCH = "batch"
    DETACHED = "detached"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class EngineRequest:
    """A request as its engine sees it: counts of tokens, never their values.

    KV exists for the first `kv_tokens` of prompt + outputs. The last output token's KV is written
    when it is the input of the next step, so a decoding request has KV for all tokens but one.
    `prefix` is the part other requests may share, where there is a prefix cache; KV of its first
    `cached_tokens` was found there when it was last admitted.
    """

    request_id: RequestId
    class_index: int
    prompt_tokens: int
    arrived_order: int
    output_tokens: int = 0
    kv_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    place: Place = Place.QUEUED
    detaching: bool = False
    prefix: Prefix | None = None
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens so far."""
        return self.prompt_tokens + self.output_tokens

    @property
    def remaining_tokens(self) -> int:
        """Tokens whose KV must be computed before the next token comes out."""
        return self.prompt_tokens + self.output_tokens - self.kv_tokens

    @property
    def decoding(self) -> bool:
        """Whether one more token of input yields one more token of output."""
        return self.output_tokens > 0 and self.remaining_tokens == 1

    @property
    def urgency(self) -> tuple[int, int]:
        """Sort key: most urgent class first, then first come, first served."""
        return (self.class_index, self.arrived_order)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens [start, start + tokens) of a request, to be computed in one step."""

    request: EngineRequest
    start: int
    tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes, and how long it takes. The blocks it writes are allocated.

    `draft_tokens` are computed for each decode beside its regular one.
    """

    decodes: tuple[EngineRequest, ...]
    prefills: tuple[PrefillChunk, ...]
    cost_ns: int
    draft_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens computed; never above the engine's token budget."""
        decoded = len(self.decodes) * (1 + self.draft_tokens)
        return decoded + sum(chunk.tokens for chunk in self.prefills)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Which requests got tokens in a step, in order, and which of them finished by it."""

    produced: tuple[EngineRequest, ...]
    finished: tuple[EngineRequest, ...]


class EngineHost(Protocol):
    """The engine's callbacks to its driver; token values are the host's business.

    All are called synchronously, from within `plan_step` and `complete_step`.
    """

    def produced(self, request: EngineRequest) -> bool:
        """A request got one more token, already counted; return whether that finishes it.

        Must not call the engine back: the step is only half counted.
        """

    def preempted(self, request: EngineRequest) -> None:
        """A request lost its blocks, and waits to compute everything again."""

    def detached(self, request: EngineRequest) -> None:
        """A request to be detached has left the batch, at a step boundary."""
