"""An instance laid out in columns, as its fleet and network see it."""

from migration.config import MigrationConfig
from migration.engine import Gone, RequestState
from migration.llumlet.llumlet import Llumlet
from migration.protocol.pacing import StepTime, mean_step_s
from policies.types import InstanceId
from simulator.events import NS_PER_S, EventQueue
from simulator.fleet.instance import InstanceShape
from simulator.kernel.compiled import Kernel
from simulator.kernel.drain import DrainedHooks
from simulator.kernel.engine.late_arrivals import arrived_late
from simulator.kernel.engine.pace import step_ends
from simulator.kernel.engine.roster import clear, clear_up
from simulator.kernel.engine.shared_blocks import lay_out
from simulator.kernel.holdings import Holding
from simulator.kernel.hooks import Kept, Names
from simulator.kernel.state import (
    ALIVE,
    AT,
    BUSY,
    CLASS,
    COPIES,
    FREE,
    GONE,
    ORDER,
    OUT,
    PLACE,
    PROMPT,
    STEPS,
    TOTAL_BLOCKS,
    State,
)

NO_PARAMS: dict[str, object] = {}


class ReadSteps(StepTime):
    """The duration of a step, from the columns."""

    __slots__ = ("_instance",)

    def __init__(self, instance: "ColumnInstance") -> None:
        super().__init__()
        self._instance = instance

    def value_s(self) -> float:
        """See StepTime."""
        ends = step_ends(self._instance.state, self._instance.at)
        return mean_step_s([at_ns / NS_PER_S for at_ns in ends])


class ColumnInstance(DrainedHooks):
    """One instance, with its llumlet."""

    def __init__(
        self,
        at: int,
        instance_id: InstanceId,
        shape: InstanceShape,
        migration: MigrationConfig,
        state: State,
        kernel: Kernel,
        events: EventQueue,
        names: Names,
    ) -> None:
        super().__init__(at, instance_id, shape, state, kernel, events, names)
        self.llumlet = Llumlet(self, migration, instance_id, lambda: events.now_s)
        self.llumlet.host.step = ReadSteps(self)
        clear(state, at)
        self._put(ALIVE, 1)
        self._put(FREE, state.fleet[TOTAL_BLOCKS])
        if self._shares:
            lay_out(state, at)

    @property
    def alive(self) -> bool:
        """Whether it is alive."""
        return bool(self._get(ALIVE))

    @property
    def steps(self) -> int:
        """Count the steps begun."""
        return self._get(STEPS)

    @property
    def busy_ns(self) -> int:
        """Sum up their cost."""
        return self._get(BUSY)

    @property
    def copies(self) -> int:
        """Count the stages under way from or to here."""
        return self._get(COPIES)

    @copies.setter
    def copies(self, number: int) -> None:
        if self.alive:  # else the row is blank, for its next user
            self.settle()
            self._put(COPIES, number)

    def submit(self, position: int) -> None:
        """Queue a request; what is left of an earlier stay is dropped."""
        request_id = self._names.name(position)
        self.settle()
        if self._cancel(request_id):
            self.llumlet.gone(request_id, Gone.CANCELLED)
        self._kernel.submit(self.state, self.at, position, self._events.now_ns)

    def left_batch(self, position: int) -> RequestState:
        """Keep a request that left the batch; return its summary: only the count is true."""
        req = self.state.req
        request_id = self._names.name(position)
        kept = Kept(position, int(req[ORDER][position]), Holding.of(self.state, position))
        self._kept[request_id] = kept
        return RequestState(
            request_id=request_id,
            class_index=int(req[CLASS][position]),
            prompt_token_ids=(0,) * int(req[PROMPT][position]),
            output_token_ids=(0,) * int(req[OUT][position]),
            kv_tokens=kept.holding.kv_tokens,
            params=NO_PARAMS,
        )

    def die(self) -> list[int]:
        """Stop at once; return the requests that were here, in order of arrival."""
        self.settle()
        req, batch = self.state.req, self._batch()
        for position in batch:
            clear_up(self.state, self.at, position)
        here = [(int(req[ORDER][position]), position) for position in (*batch, *self._line())]
        for _, position in here:
            req[PLACE][position] = GONE
        for kept in self._kept.values():
            here.append((kept.order, kept.position))
            if req[AT][kept.position] == self.at:
                req[PLACE][kept.position] = GONE
        for request_id in list(self._departing):
            self.departed(request_id)
        came = arrived_late(self.state, self.at)
        for position in came:
            req[PLACE][position] = GONE
        clear(self.state, self.at)
        return [position for _, position in sorted(here)] + came
