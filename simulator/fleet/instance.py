"""One simulated instance: an engine model, its steps in virtual time, and its llumlet."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from migration.config import MigrationConfig
from migration.engine import Gone
from migration.layout import Layout
from migration.llumlet.llumlet import Llumlet
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId
from simulator.costs.presets import CostModel
from simulator.engine.batch import EngineRequest, StepPlan
from simulator.engine.engine import Engine
from simulator.engine.roster import EngineLimits
from simulator.engine.speculation import Guesses
from simulator.events import Event, EventQueue, Priority
from simulator.fleet.hooks import SimulatedHooks, state_of
from simulator.fleet.life import Life

PER_MILLE = 1000


@dataclass(frozen=True, slots=True)
class InstanceShape:
    """What every instance of a fleet is like. `slowdown_per_mille`: of a step beside a copy.

    All instances share `guesses`; with it, they decode speculatively. With `schedules_ahead`, a
    step is planned when the one before begins: later arrivals are not in it. Raises ValueError
    where a full batch with its guesses exceeds a step's budget.
    """

    limits: EngineLimits
    costs: CostModel
    layout: Layout
    slowdown_per_mille: int = 0
    guesses: Guesses | None = None
    schedules_ahead: bool = False

    def __post_init__(self) -> None:
        if self.guesses is not None:
            self.limits.check_decodes(1 + self.guesses.speculation.draft_tokens)


class InstanceOwner(Protocol):
    """The fleet, which an instance tells what becomes of its requests."""

    def life(self, request_id: RequestId) -> Life:
        """Look up a request."""

    def ended(self, life: Life) -> None:
        """A request finished."""

    def requeued(self, request_id: RequestId) -> None:
        """A queued request was sent back to the frontend."""

    def pump(self, instance: "SimulatedInstance") -> None:
        """Carry out the effects of the instance's llumlet."""


class SimulatedInstance:
    """Steps follow each other without a pause while there is anything to compute."""

    def __init__(
        self,
        instance_id: InstanceId,
        shape: InstanceShape,
        migration: MigrationConfig,
        events: EventQueue,
        owner: InstanceOwner,
    ) -> None:
        self.instance_id = instance_id
        self.shape = shape
        self.alive = True
        self.steps = 0
        self.busy_ns = 0
        self.copies = 0
        self.engine = Engine(shape.limits, shape.costs, self, shape.guesses)
        self.hooks = SimulatedHooks(
            self.engine,
            instance_id,
            shape.layout,
            self.wake,
            owner.requeued,
            self._attached,
            lambda request_id: owner.life(request_id).request.prompt_blocks,
        )
        self.llumlet = Llumlet(self.hooks, migration, instance_id, lambda: events.now_s)
        self.new_ids: list[RequestId] = []
        self._events = events
        self._owner = owner
        self._step: Event | None = None
        self._woken = False
        self._just_come: list[Life] = []
        self._finished: list[Life] = []
        self._gone: list[tuple[RequestId, Gone]] = []
        self._detached: list[EngineRequest] = []

    def submit(self, life: Life) -> None:
        """Queue a request; one that has tokens already recomputes them."""
        request_id = RequestId(life.request_id)
        if self.engine.cancel(request_id):  # left over from a migration that was never answered
            self.llumlet.gone(request_id, Gone.CANCELLED)
        life.instance_id = self.instance_id
        self._just_come.append(life)
        if self._step is None or not self.shape.schedules_ahead:
            self._queue_who_came()
            self.wake()

    def load_at(self, now_s: float) -> InstanceLoad:
        """Report the load, as of a given time."""
        return replace(self.llumlet.load(), reported_at_s=now_s)

    def wake(self) -> None:
        """Resume computing, if there is anything to compute and no step is under way."""
        if self.alive and self._step is None and not self._woken:
            self._woken = True
            self._events.after(0, Priority.STEP, self._begin_step)

    def die(self) -> list[Life]:
        """Stop at once; return the requests that were here."""
        self.alive = False
        if self._step is not None:
            self._step.cancel()
        here = [self._owner.life(request.request_id) for request in self.engine.requests()]
        return [*here, *self._just_come]

    # --- EngineHost ---

    def produced(self, request: EngineRequest) -> bool:
        """See EngineHost."""
        life = self._owner.life(request.request_id)
        ended = life.token(self._events.now_ns)
        if ended:
            self._finished.append(life)
        return ended

    def preempted(self, request: EngineRequest) -> None:
        """See EngineHost."""
        life = self._owner.life(request.request_id)
        life.preemptions += 1
        life.preempted_ns = self._events.now_ns
        self._gone.append((request.request_id, Gone.PREEMPTED))

    def detached(self, request: EngineRequest) -> None:
        """See EngineHost."""
        self._detached.append(request)

    # --- steps ---

    def _begin_step(self) -> None:
        self._woken = False
        if not self.alive or self._step is not None:
            return
        plan = self.engine.plan_step()
        came = bool(self._just_come)
        self._queue_who_came()  # during the step before: with scheduling ahead, too late for this
        if plan is None and came:
            plan = self.engine.plan_step()
        if plan is not None:
            cost_ns = self._cost_ns(plan)
            self.steps += 1
            self.busy_ns += cost_ns
            self._note_admissions(plan, cost_ns)
            self._step = self._events.after(cost_ns, Priority.STEP, partial(self._end_step, plan))
        self._tell()

    def _end_step(self, plan: StepPlan) -> None:
        self._step = None
        result = self.engine.complete_step(plan)
        for request in result.finished:
            self._gone.append((request.request_id, Gone.FINISHED))
        self.llumlet.stepped()
        self.wake()
        self._tell()

    def _queue_who_came(self) -> None:
        """Queue the requests that arrived since, in order; from now on reports include them."""
        for life in self._just_come:
            request, request_id = life.request, RequestId(life.request_id)
            self.new_ids.append(request_id)
            self.engine.add(
                request_id,
                life.class_index,
                request.prompt_tokens,
                life.tokens,
                request.prompt_blocks,
            )
        self._just_come = []

    def _cost_ns(self, plan: StepPlan) -> int:
        """The cost of a step; while KV is copied from or to here, a little more."""
        if not self.copies:
            return plan.cost_ns
        return plan.cost_ns + plan.cost_ns * self.shape.slowdown_per_mille // PER_MILLE

    def _note_admissions(self, plan: StepPlan, cost_ns: int) -> None:
        for chunk in plan.prefills:
            life = self._owner.life(chunk.request.request_id)
            if not life.admitted_ns:
                life.admitted_ns = self._events.now_ns
                life.cached_tokens = chunk.request.cached_tokens
        if plan.prefills and plan.decodes:
            alone_ns = self.engine.decodes_ns(plan.decodes)
            for request in plan.decodes:
                life = self._owner.life(request.request_id)
                life.prefill_interference_ns += cost_ns - alone_ns

    def _tell(self) -> None:
        """Pass on the engine's notices once it has returned: it must not be called back earlier."""
        gone, self._gone = self._gone, []
        detached, self._detached = self._detached, []
        finished, self._finished = self._finished, []
        for request_id, why in gone:
            self.llumlet.gone(request_id, why)
        for request in detached:
            self.llumlet.detached(request.request_id, state_of(request))
        for life in finished:
            self._owner.ended(life)
        self._owner.pump(self)

    def _attached(self, request_id: RequestId, migration_id: MigrationId) -> None:
        life = self._owner.life(request_id)
        life.instance_id = self.instance_id
        self.new_ids.append(request_id)
        move = life.moves[-1] if life.moves else None
        if move is not None and move.migration_id == migration_id:
            move.committed_ns = self._events.now_ns
            move.last_token_ns = life.last_token_ns
            move.usual_interval_ns = life.usual_interval_ns()
