"""The figures that decide whether a run measured the fleet or the machine it ran on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llumnix.loadgen.probe import LATE_STEPS_SHARE, FleetRun

# A generator that sent one request in a hundred later than this (emulated) did not replay its
# workload.
SLIP_BOUND_S = 0.5


class InvalidCause(StrEnum):
    """Why a run is not a valid measurement."""

    NOTHING_FINISHED = "nothing finished"
    GENERATOR_LATE = "generator late"
    EMULATION_LATE = "emulation late"
    NOT_COMPARED = "outputs not compared"


LATENESS = frozenset({InvalidCause.GENERATOR_LATE, InvalidCause.EMULATION_LATE})
"""Causes that a lower speed, or a less busy machine, would remove."""
VALID_LATENESS = 1.0
"""The largest `Validity.lateness` of a valid run."""


@dataclass(frozen=True, slots=True)
class Validity:
    """The figures by which a run is judged.

    `late_steps_share` is the share of engine steps that completed more than one decode step late,
    `late_p99_steps` the 99th percentile of their lateness in decode steps; both are None if nothing
    is emulated. `slip_p99_s` is how late requests were sent, in fleet seconds.
    """

    finished: int
    slip_p99_s: float = 0.0
    slip_bound_s: float = SLIP_BOUND_S
    late_steps_share: float | None = None
    late_p99_steps: float | None = None
    unchecked: int = 0

    @classmethod
    def of(
        cls, fleet: FleetRun, finished: int, slip_p99_s: float, slip_bound_s: float, unchecked: int
    ) -> "Validity":
        """Return the figures of a run."""
        return cls(
            finished, slip_p99_s, slip_bound_s, fleet.late_share, fleet.late_p99_steps, unchecked
        )

    @property
    def causes(self) -> tuple[InvalidCause, ...]:
        """Every cause that applies; none for a valid run."""
        found = {
            InvalidCause.NOTHING_FINISHED: not self.finished,
            InvalidCause.GENERATOR_LATE: self.slip_p99_s > self.slip_bound_s,
            InvalidCause.EMULATION_LATE: (self.late_steps_share or 0.0) > LATE_STEPS_SHARE,
            InvalidCause.NOT_COMPARED: bool(self.unchecked),
        }
        return tuple(cause for cause, holds in found.items() if holds)

    @property
    def late(self) -> bool:
        """Whether the machine was too slow for the run."""
        return bool(LATENESS.intersection(self.causes))

    @property
    def only_late(self) -> bool:
        """Whether lateness is the only cause against the run."""
        return self.late and LATENESS.issuperset(self.causes)

    @property
    def lateness(self) -> float:
        """The 99th percentile of lateness, as a share of what a valid run allows."""
        return max(self.late_p99_steps or 0.0, self.slip_p99_s / self.slip_bound_s)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The causes, as sentences for people."""
        told = {
            InvalidCause.NOTHING_FINISHED: "no request finished",
            InvalidCause.GENERATOR_LATE: "the load generator sent requests late (p99 "
            f"{self.slip_p99_s:.2f} s emulated, bound {self.slip_bound_s:g} s): lower the speed",
            InvalidCause.EMULATION_LATE: "emulation fell behind its clock "
            f"({self.late_steps_share or 0.0:.1%} of steps late): lower the speed",
            InvalidCause.NOT_COMPARED: f"{self.unchecked} outputs came without token ids and were "
            "not compared",
        }
        return tuple(told[cause] for cause in self.causes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {
            "causes": [cause.value for cause in self.causes],
            "late_steps_share": self.late_steps_share,
            "late_steps_bound": LATE_STEPS_SHARE,
            "late_p99_decode_steps": self.late_p99_steps,
            "slip_p99_s": self.slip_p99_s,
            "slip_bound_s": self.slip_bound_s,
        }
