"""The life of one simulated request: what happened when, and what delayed it. Times are in ns."""

import enum
from dataclasses import dataclass, field

from policies.types import InstanceId
from simulator.workload.request import TraceRequest


class Fate(enum.Enum):
    """What became of a request."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    REJECTED = "rejected"


class Rejection(enum.Enum):
    """Why a request was not served."""

    NEVER_FITS = "it is longer than an instance's memory"
    QUEUE_FULL = "too many were waiting"
    BY_POLICY = "the dispatch policy refused it"


@dataclass(slots=True)
class MoveRecord:
    """One migration of a request. The gap is from its last token at the source to the next one."""

    migration_id: str
    source: InstanceId
    destination: InstanceId
    started_ns: int
    committed_ns: int = 0
    last_token_ns: int = 0
    gap_ns: int = 0
    stages: int = 0
    copied_bytes: int = 0
    usual_interval_ns: int = 0

    @property
    def downtime_ns(self) -> int:
        """How much longer than usual the client waited for a token (decision 0005)."""
        return max(0, self.gap_ns - self.usual_interval_ns)


@dataclass(slots=True, eq=False)
class Life:
    """One request. `tokens` counts outputs produced so far, wherever it was.

    `cached_tokens` are those of its prompt whose KV was found where it was first admitted.
    """

    request: TraceRequest
    request_id: str
    class_index: int
    arrived_ns: int
    fate: Fate = Fate.WAITING
    rejection: Rejection | None = None
    reason: str = ""
    instance_id: InstanceId | None = None
    tokens: int = 0
    dispatched_ns: int = 0
    admitted_ns: int = 0
    cached_tokens: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    longest_gap_ns: int = 0
    preemptions: int = 0
    preempted_ns: int = 0
    preemption_loss_ns: int = 0
    prefill_interference_ns: int = 0
    restarts: int = 0
    moves: list[MoveRecord] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all of its tokens were produced."""
        return self.fate is Fate.FINISHED

    def token(self, now_ns: int) -> bool:
        """Count a token; True when it was the last."""
        self.tokens += 1
        if self.tokens == 1:
            self.first_token_ns = now_ns
        else:
            gap_ns = now_ns - self.last_token_ns
            self.longest_gap_ns = max(self.longest_gap_ns, gap_ns)
            if self.preempted_ns:
                self.preemption_loss_ns += now_ns - self.preempted_ns
                self.preempted_ns = 0
            move = self.moves[-1] if self.moves else None
            if move is not None and move.committed_ns and not move.gap_ns:
                move.gap_ns = gap_ns
        self.last_token_ns = now_ns
        return self.tokens >= self.request.output_tokens

    def usual_interval_ns(self) -> int:
        """The mean interval between its tokens so far; 0 while there is none."""
        if self.tokens < 2:
            return 0
        return (self.last_token_ns - self.first_token_ns) // (self.tokens - 1)
