"""The demo's runs, one policy after the other, each repeated more slowly where it was too late."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llumnix.testbed.pace import Pace, RunPlan, Standing
from llumnix.testbed.trial import PolicyChoice, TrialOutcome

_OVERHEAD_S = 8.0
"""A first guess of what a run takes more than its load: processes start, outputs are compared."""

RunTrial = Callable[[PolicyChoice, RunPlan], Awaitable[TrialOutcome]]
Show = Callable[[Sequence["PolicyRun"], RunPlan | None], None]
"""Called after each run with those to show, its own last, and with the plan if it is repeated."""


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What is kept of a policy: one run, and the others, which were right but later."""

    outcome: TrialOutcome
    discarded: tuple[TrialOutcome, ...] = ()

    @classmethod
    def of(cls, outcomes: Sequence[TrialOutcome]) -> "PolicyRun":
        """Keep the last, or an earlier one of the same workload that was less late.

        All but the last are right; if that is not, it is the one to be seen.
        """
        *_, kept = outcomes
        for other in outcomes[:-1]:
            same = other.result.requests == kept.result.requests
            less_late = other.validity.lateness < kept.validity.lateness
            if kept.right and not kept.result.valid and same and less_late:
                kept = other
        return cls(kept, tuple(other for other in outcomes if other is not kept))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`: the result, and what tells how far to trust it."""
        earlier = [
            {"speed": one.result.speed, "requests": one.result.requests, **one.validity.to_json()}
            for one in self.discarded
        ]
        validity = {**self.outcome.validity.to_json(), "discarded_runs": earlier}
        return {**self.outcome.result.to_json(), "validity": validity}


@dataclass(slots=True)
class Series:
    """Runs policies by the plans of a pace; `clock_s` counts from the demo's start."""

    pace: Pace
    trial: RunTrial
    show: Show
    clock_s: Callable[[], float]
    overhead_s: float = _OVERHEAD_S

    async def run(self, choices: Sequence[PolicyChoice], plan: RunPlan) -> list[PolicyRun]:
        """Run them all, beginning with this plan; raises LaunchError as the trial does."""
        runs: list[PolicyRun] = []
        for choice in choices:
            outcomes = await self._until_kept(choice, plan, runs, len(choices))
            runs.append(PolicyRun.of(outcomes))
            last = outcomes[-1]
            plan = self.pace.following(
                RunPlan(last.result.speed, last.result.requests),
                last.validity.lateness if last.validity.late else None,
                self._standing(len(choices), len(runs)),
            )
        return runs

    def first_plan(self, policies: int, speed: float) -> RunPlan:
        """Plan the first run, as of now."""
        return self.pace.first(speed, self._standing(policies, 0))

    async def _until_kept(
        self, choice: PolicyChoice, plan: RunPlan, runs: Sequence[PolicyRun], policies: int
    ) -> list[TrialOutcome]:
        outcomes: list[TrialOutcome] = []
        while True:
            outcome = await self._timed(choice, plan)
            repeat = None
            if outcome.validity.only_late and outcome.right:
                standing = self._standing(policies, len(runs))
                repeat = self.pace.again(plan, outcome.validity.lateness, len(outcomes), standing)
            outcomes.append(outcome)
            self.show([*runs, PolicyRun.of(outcomes)], repeat)
            if repeat is None:
                return outcomes
            plan = repeat

    async def _timed(self, choice: PolicyChoice, plan: RunPlan) -> TrialOutcome:
        began_s = self.clock_s()
        outcome = await self.trial(choice, plan)
        self.overhead_s = max(0.0, self.clock_s() - began_s - outcome.load_s)
        return outcome

    def _standing(self, policies: int, kept: int) -> Standing:
        return Standing(self.clock_s(), policies - kept, kept > 0, self.overhead_s)
