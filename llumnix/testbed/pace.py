"""How fast to emulate, and how much, on a machine that may be busy: decisions alone, no clock.

Times in the fleet do not depend on the speed as long as a run is valid, so runs at different
speeds compare; runs of different workloads do not. Hence the workload may shrink while nothing has
been kept to compare with, and only the speed may change from then on.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.workload.request import TraceRequest

FASTEST, SLOWEST = 6.0, 1.0
SLOWEST_FOR_A_GUESS = 2.0
"""A few seconds of rehearsal may be bad luck: only whole runs lead to speeds below this."""
_HEADROOM = 0.6
"""Share of the lateness a run may have that a speed is chosen for."""
_STEP_DOWN = 0.75
_WORTH_A_REPEAT = 0.9
"""Share of the speed that a repeat must stay below to be worth its time."""
_FEWEST_REQUESTS = 24
_LEAST_OF_A_WORKLOAD = 0.5
"""Share of the requests that a repeat must have: too few would not tell policies apart."""
_USUAL_FIRST_TOKEN_S = 1.0
_USUAL_STEPS = 1.4
"""A usual time per output token, in decode steps of an idle fleet."""
_SPARE_RUNS = 0.5
"""Time kept back for repeats, in runs."""


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """Wall seconds since the start: when the first table is due, and when all runs have ended."""

    first_table_s: float
    runs_s: float

    @classmethod
    def within(cls, total_s: float) -> "TimeBudget":
        """Leave a part of the whole for what is late itself, and for the report."""
        return cls(0.35 * total_s, 0.85 * total_s)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """How the next run is to be: its emulated seconds per wall second, and its first N requests."""

    speed: float
    requests: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the demo stands: wall seconds since its start, and what is still to do.

    `runs_left` counts policies without a run that is kept. `kept` says whether any other policy's
    is. A run takes `overhead_s` more than its load.
    """

    elapsed_s: float
    runs_left: int
    kept: bool
    overhead_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Chooses speeds and sizes. `ends_s` is when each request is expected to have ended (fleet).

    Speeds lie between `slowest` and `fastest`, and never rise after the first. A run is repeated
    at most `repeats` times.
    """

    ends_s: Sequence[float]
    budget: TimeBudget
    repeats: int
    fastest: float = FASTEST
    slowest: float = SLOWEST

    def carried(self, speed: float, lateness: float) -> float:
        """The speed to begin with, after a rehearsal at `speed` that was so late."""
        guess = speed * _HEADROOM / lateness if lateness > 0 else self.fastest
        floor = max(self.slowest, min(SLOWEST_FOR_A_GUESS, self.fastest))
        return _rounded(min(max(guess, floor), self.fastest))

    def first(self, speed: float, standing: Standing) -> RunPlan:
        """Plan the first run: as many requests as there is time for at this speed."""
        load_s = self._load_s(standing, _SPARE_RUNS)
        until_table_s = self.budget.first_table_s - standing.elapsed_s - standing.overhead_s
        most = len(self.ends_s)
        least = min(most, _FEWEST_REQUESTS)
        return RunPlan(speed, self._fitting(speed, min(load_s, until_table_s), least, most))

    def again(
        self, plan: RunPlan, lateness: float, repeated: int, standing: Standing
    ) -> RunPlan | None:
        """Plan the repeat of a run that was so late; None if it is kept as it is.

        `standing` counts that run as left to do.
        """
        if repeated >= self.repeats:
            return None
        least = plan.requests if standing.kept else math.ceil(plan.requests * _LEAST_OF_A_WORKLOAD)
        in_time = self._slowest_in_time(least, standing)
        speed = max(self.lowered(plan.speed, lateness), in_time)
        at_the_end = plan.speed <= self.slowest
        if speed > plan.speed * (1.0 if at_the_end else _WORTH_A_REPEAT):
            return None
        if standing.kept:
            return RunPlan(speed, plan.requests)
        return RunPlan(speed, self._fitting(speed, self._load_s(standing), least, plan.requests))

    def following(self, plan: RunPlan, lateness: float | None, standing: Standing) -> RunPlan:
        """Plan the next policy's run; `lateness` is that of the run before, None if it was valid.

        As slow as the lateness asks for and the time allows, never faster than before.
        """
        if lateness is None:
            return plan
        wanted = self.lowered(plan.speed, lateness)
        speed = max(wanted, self._slowest_in_time(plan.requests, standing))
        return RunPlan(min(speed, plan.speed), plan.requests)

    def lowered(self, speed: float, lateness: float) -> float:
        """The next lower speed, after a run at `speed` that was so late."""
        guess = min(speed * _STEP_DOWN, speed * _HEADROOM / max(lateness, _HEADROOM))
        # One run may have met a machine that is seldom so busy: a third is the most at once.
        return min(speed, max(_rounded(max(guess, speed / 3)), self.slowest))

    def _fitting(self, speed: float, load_s: float, least: int, most: int) -> int:
        """How many requests end within so many wall seconds at this speed."""
        return max(least, bisect_right(self.ends_s, load_s * speed, hi=most))

    def _load_s(self, standing: Standing, spare_runs: float = 0.0) -> float:
        """Wall seconds of load that each run may have: an equal share of what is left."""
        runs = standing.runs_left + spare_runs
        share_s = (self.budget.runs_s - standing.elapsed_s) / runs
        return max(share_s - standing.overhead_s, 0.0)

    def _slowest_in_time(self, requests: int, standing: Standing) -> float:
        """The speed at which the runs left, of so many requests, take just the time left."""
        if not standing.runs_left:
            return self.slowest
        load_s = self._load_s(standing)
        needed = self.ends_s[requests - 1] / load_s if load_s > 0 else math.inf
        return _rounded_up(needed)


def expected_ends_s(requests: Sequence[TraceRequest], decode_step_s: float) -> list[float]:
    """When all of the first 1, 2, 3 … requests will have ended; a step is that of an idle fleet."""
    ends_s: list[float] = []
    for each in requests:
        serving_s = _USUAL_FIRST_TOKEN_S + each.output_tokens * _USUAL_STEPS * decode_step_s
        ends_s.append(max(each.arrival_s + serving_s, ends_s[-1] if ends_s else 0.0))
    return ends_s


def _rounded(speed: float) -> float:
    """Round down to a speed that reads well; as it is below one tenth."""
    return math.floor(speed * 10 + 1e-9) / 10 if speed >= 0.1 else speed


def _rounded_up(speed: float) -> float:
    return math.ceil(speed * 10 - 1e-9) / 10 if math.isfinite(speed) else speed
