"""One decision about a request, and how the admin API reports it."""

import enum
from dataclasses import dataclass

from llumnix.admin.schema import DecisionRecord
from policies.explained import nbytes
from policies.types import Explanation, InstanceId

_BYTES = 700
"""About what a decision takes, but for its scores, vetoes and note."""


class DecisionKind(enum.StrEnum):
    """The kind of a decision about a request."""

    DISPATCH = "dispatch"
    HOLD = "hold"
    REJECT = "reject"
    MIGRATE = "migrate"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about a request. `at_s` is fleet time."""

    at_s: float
    kind: DecisionKind
    instance_id: InstanceId | None
    explanation: Explanation

    @property
    def nbytes(self) -> int:
        """About how much memory it takes, in bytes."""
        why = self.explanation
        return _BYTES + nbytes(why.scores) + nbytes(why.vetoed) + len(why.note)

    def record(self) -> DecisionRecord:
        """Return this as the admin API reports it."""
        why = self.explanation
        return DecisionRecord(
            at_s=round(self.at_s, 6),
            kind=self.kind,
            instance_id=self.instance_id,
            policy=why.policy,
            scores={name: _finite(score) for name, score in why.scores.items()},
            vetoed=dict[str, str](why.vetoed.items()),
            note=why.note,
        )


def _finite(score: float) -> float | None:
    """Drop infinite scores, which JSON lacks: an instance that may not be chosen has no score."""
    return score if abs(score) != float("inf") else None
