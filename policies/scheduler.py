"""The global scheduler: snapshots in, decisions out. It knows instances, not requests.

Policies propose, the scheduler vetoes. It also keeps the little that outlives a decision: what is
in flight, which migrations are under way, which instances were sources, and how many dispatches it
made. That state is soft: a restarted scheduler rebuilds it from the next reports.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from policies.choice import HOLD, Choice, Chooser
from policies.ledger import InFlightLedger
from policies.moves.config import RebalanceConfig
from policies.moves.order_book import OrderBook
from policies.moves.proposers import DEFAULT_MOVES, move_policies
from policies.moves.rebalance import find_sources
from policies.moves.view import MovesView
from policies.registry import PolicySpec
from policies.types import (
    Dispatch,
    DispatchDecision,
    DispatchRequest,
    Explanation,
    FleetSnapshot,
    FloatColumn,
    Hold,
    InstanceId,
    IntColumn,
    MigrateOrder,
    PriorityClass,
    RequestId,
)
from policies.usage import Queue, freeness, startable_tokens
from policies.vetoes import in_fitting_group, order_veto

# Without headroom: how much of it a class needs depends on the model and the GPU.
DEFAULT_CLASSES = (PriorityClass("high"), PriorityClass("normal"))


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How a fleet is scheduled. Times are fleet seconds.

    Raises ValueError if the classes do not fit together or a bound is not positive.
    """

    classes: tuple[PriorityClass, ...] = field(
        default=DEFAULT_CLASSES,
        metadata={"help": "priority classes, most urgent first", "unit": ""},
    )
    default_class: str = field(
        default="normal", metadata={"help": "class of requests that do not name one", "unit": ""}
    )
    dispatch: PolicySpec = field(
        default=PolicySpec("freeness"),
        metadata={"help": "which instance gets a request", "unit": ""},
    )
    queue: PolicySpec = field(
        default=PolicySpec("class-then-arrival"),
        metadata={"help": "which queued request is served next", "unit": ""},
    )
    migration: bool = field(
        default=True, metadata={"help": "move running requests between instances", "unit": ""}
    )
    moves: tuple[PolicySpec, ...] = field(
        default=DEFAULT_MOVES,
        metadata={"help": "which policies propose migrations, most urgent first", "unit": ""},
    )
    rebalance: RebalanceConfig = field(
        default=RebalanceConfig(), metadata={"help": "when to migrate requests", "unit": ""}
    )
    ledger_timeout_s: float = field(
        default=10.0,
        metadata={
            "help": "time after which a dispatch that no report confirms is forgotten",
            "unit": "s",
        },
    )
    max_age_s: float = field(
        default=5.0,
        metadata={
            "help": "age of the last report above which an instance gets requests only if all "
            "reports are as old",
            "unit": "s",
        },
    )

    def __post_init__(self) -> None:
        names = [known.name for known in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"class names must differ: {', '.join(names)}")
        if self.default_class not in names:
            raise ValueError(
                f"default_class {self.default_class!r} is not among the classes: {', '.join(names)}"
            )
        for name in ("ledger_timeout_s", "max_age_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class VetoedOrder:
    """A migration that a policy proposed and the scheduler vetoed."""

    order: MigrateOrder
    reason: str


class GlobalScheduler:
    """Decides where requests go, and which instances hand requests to others.

    No call waits or does I/O; each that depends on time is given it (`now_s`, never decreasing).
    Equal calls in equal order give equal decisions. Raises PolicyError when built with an unknown
    policy or parameter.
    """

    def __init__(self, config: SchedulerConfig, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.ledger = InFlightLedger(config.ledger_timeout_s)
        self.orders = OrderBook(config.rebalance)
        self.vetoed: tuple[VetoedOrder, ...] = ()
        self._proposers = [move_policies.build(spec) for spec in config.moves]
        self._headroom_tokens: IntColumn = np.array(
            [known.headroom_tokens for known in config.classes], dtype=np.int64
        )
        self._chooser = Chooser(config.dispatch, self._headroom_tokens, seed)
        self._sources: frozenset[InstanceId] = frozenset()
        self._held: tuple[DispatchRequest, float] | None = None
        self._turn = 0

    def reconfigure(self, config: SchedulerConfig) -> None:
        """Decide by other policies and thresholds from now on; what is in flight stays known.

        Raises PolicyError for an unknown policy or parameter, ValueError if classes or queue
        differ, which others have built on; then nothing changes.
        """
        for name in ("classes", "default_class", "queue"):
            if getattr(config, name) != getattr(self.config, name):
                raise ValueError(f"{name} cannot change while serving")
        chooser = Chooser(config.dispatch, self._headroom_tokens, self.seed)
        proposers = [move_policies.build(spec) for spec in config.moves]
        self.config, self._chooser, self._proposers = config, chooser, proposers
        self.ledger.timeout_s = config.ledger_timeout_s
        self.orders.config = config.rebalance

    def freeness(self, snapshot: FleetSnapshot, queue: Queue = "head") -> FloatColumn:
        """Compute every instance's freeness in decode steps, as the rebalance (head) sees it."""
        return freeness(self.ledger.fill_in(snapshot), self._headroom_tokens, queue)

    def dispatch(
        self, request: DispatchRequest, snapshot: FleetSnapshot, now_s: float
    ) -> DispatchDecision:
        """Decide where a request goes; a Dispatch counts as in flight until `confirm`.

        Hold means: ask again when something has changed (a report, an end, a new instance).
        """
        self.ledger.expire(now_s)
        choice = self._choose(request, snapshot)
        why = Explanation(self.config.dispatch.name, choice.scores, choice.vetoed, choice.note)
        if choice.row == HOLD:
            if choice.late_bound:
                self._held = (request, now_s)
            return Hold(why)
        chosen = snapshot.ids[choice.row]
        self._turn += 1
        self._release_held(request.request_id)
        self.ledger.enter(request.request_id, chosen, request.prompt_tokens, now_s)
        return Dispatch(chosen, why)

    def could_start(self, request: DispatchRequest, snapshot: FleetSnapshot) -> bool:
        """Return whether a request would not be held if these were all instances.

        Nothing is noted: it is for finding out which changes are worth a `dispatch`.
        """
        return self._choose(request, snapshot).row != HOLD

    def _choose(self, request: DispatchRequest, snapshot: FleetSnapshot) -> Choice:
        return self._chooser.choose(
            request, snapshot, self.ledger, self.config.max_age_s, self._turn
        )

    def sent(
        self, request_id: RequestId, instance_id: InstanceId, tokens: int, now_s: float
    ) -> None:
        """Count a request that others sent to an instance as in flight, until a report has it."""
        self.ledger.enter(request_id, instance_id, tokens, now_s)

    def confirm(self, instance_id: InstanceId, request_ids: list[RequestId]) -> None:
        """Note that the instance has reported these requests: they are no longer in flight."""
        self.ledger.confirm(instance_id, request_ids)

    def confirm_until(self, instance_id: InstanceId, at_s: float) -> None:
        """Note that a report which names no requests includes everything sent until then."""
        self.ledger.confirm_until(instance_id, at_s)

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended, was cancelled, or will be dispatched anew."""
        self._release_held(request_id)
        self.ledger.forget(request_id)

    def rebalance(self, snapshot: FleetSnapshot, now_s: float) -> list[MigrateOrder]:
        """Order migrations; each counts as under way until `order_ended`.

        The snapshot must hold only instances that can migrate. Nothing is ordered while migration
        is off, drains included. Proposals that were not allowed are in `vetoed` until the next
        call.
        """
        self.vetoed = ()
        if not self.config.migration or not snapshot.ids:
            return []
        self.ledger.expire(now_s)
        self.orders.expire(now_s)
        fleet = self._with_held(self.ledger.fill_in(snapshot), now_s)
        view = MovesView(
            fleet,
            self._headroom_tokens,
            self._sources,
            self.orders.slots_out(fleet),
            self.orders.slots_in(fleet),
            self.orders.slots(),
            self.config.rebalance,
        )
        self._sources = find_sources(view)
        view = replace(view, sources=self._sources)
        proposed: list[MigrateOrder] = []
        orders: list[MigrateOrder] = []
        for propose in self._proposers:
            view = view.after(orders)
            orders = propose(view)
            proposed += orders
        return self._allow(proposed, fleet, now_s)

    def take_over(
        self,
        sources: Iterable[InstanceId],
        held: tuple[DispatchRequest, float] | None,
        turn: int,
    ) -> None:
        """Take over from another decider that used the same columns (`policies.columns`).

        `sources` are those of the last round, `held` the request held back last and when, `turn`
        the number of dispatches so far.
        """
        self._sources, self._held, self._turn = frozenset(sources), held, turn

    def order_started(self, order: MigrateOrder, now_s: float) -> None:
        """Count an order given from elsewhere (by hand) as under way."""
        self.orders.begin(order, now_s)

    def order_ended(
        self, source: InstanceId, destination: InstanceId, now_s: float, moved: bool
    ) -> None:
        """Note that an order was carried out (`moved`), or refused or aborted."""
        self.orders.end(source, destination, now_s, moved)

    def instance_gone(self, instance_id: InstanceId) -> None:
        """Forget everything in flight or under way to, or from, an instance that is gone."""
        self.ledger.forget_instance(instance_id)
        self.orders.forget_instance(instance_id)
        self._sources -= {instance_id}

    def _allow(
        self, proposed: list[MigrateOrder], fleet: FleetSnapshot, now_s: float
    ) -> list[MigrateOrder]:
        orders: list[MigrateOrder] = []
        vetoed: list[VetoedOrder] = []
        for order in proposed:
            reason = order_veto(order, fleet, self.orders, now_s)
            if reason is None:
                self.orders.begin(order, now_s)
                orders.append(order)
            else:
                vetoed.append(VetoedOrder(order, reason))
        self.vetoed = tuple(vetoed)
        return orders

    def _release_held(self, request_id: RequestId) -> None:
        if self._held is not None and self._held[0].request_id == request_id:
            self._held = None

    def _with_held(self, fleet: FleetSnapshot, now_s: float) -> FleetSnapshot:
        """Show the rebalance the request held back, queued where it will fit soonest.

        Late binding keeps the head of the line out of the engines; without this its demand would
        lower no instance's freeness, and none would ever be de-fragmented for it.
        """
        if self._held is None or now_s - self._held[1] > self.config.max_age_s:
            return fleet
        open_to_it = ~fleet.terminating & in_fitting_group(self._held[0], fleet)
        if not open_to_it.any():
            return fleet
        room = np.where(open_to_it, startable_tokens(fleet), np.iinfo(np.int64).min)
        demand = fleet.head_demand_tokens.copy()
        demand[np.argmax(room)] += self._held[0].prompt_tokens
        return replace(fleet, head_demand_tokens=demand)
