"""The llumlet: one instance's agent, without sockets and without tasks.

It carries out the fleet's orders, plays both roles of the migration protocol for its engine, and
leaves network and timers as effects to its driver (`migration.llumlet.agent`).
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from migration.config import MigrationConfig
from migration.engine import EngineHooks, Gone, RequestState
from migration.llumlet.arrivals import Arrivals
from migration.llumlet.departures import Departures
from migration.llumlet.effects import Announce, Effect, Ship, TimerKey
from migration.llumlet.fleet_messages import (
    EventKind,
    MigrateOut,
    MigrationEvent,
    Recollection,
)
from migration.llumlet.host import Host
from migration.llumlet.memory import Memory
from migration.protocol import events as ev
from migration.protocol.landing import Landing
from migration.protocol.messages import (
    Abort,
    Blocks,
    Committed,
    Message,
    Query,
    Refused,
    Reserve,
    Reserved,
    StageAck,
)
from migration.protocol.peer import Peer, Sender
from policies.moves.victims import choose_victim
from policies.types import (
    InstanceId,
    InstanceLoad,
    MigrateReason,
    RequestId,
    RequestPhase,
    RequestView,
)

MAX_MOVED = 1 << 16


@dataclass(frozen=True, slots=True)
class Denied:
    """Why an order is not carried out."""

    reason: str


class Llumlet:
    """Moves requests away on order and receives requests; the same for every engine.

    `clock` gives wall seconds; `speed` is how many fleet seconds pass in one (cooldowns are in
    fleet seconds). `first_epoch` must be higher than any epoch of this instance's former lives.
    After every call the driver takes the effects and carries them out. Calls that arrive during
    another call (an engine may call back at once) wait for it to end.
    """

    def __init__(
        self,
        hooks: EngineHooks,
        config: MigrationConfig,
        instance_id: InstanceId,
        clock: Callable[[], float],
        *,
        speed: float = 1.0,
        first_epoch: int = 1,
    ) -> None:
        self.host = Host(instance_id, hooks, config, clock)
        self.departures = Departures(self.host)
        self.arrivals = Arrivals(self.host)
        self.memory = Memory(clock)
        self._speed = speed
        self._next_epoch = first_epoch
        self._moved_at_s: OrderedDict[RequestId, float] = OrderedDict()
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def take_effects(self) -> list[Effect]:
        """Return what the driver has to do, in order."""
        effects, self.host.effects = self.host.effects, []
        return effects

    # --- the fleet ---

    def order(self, order: MigrateOut) -> None:
        """Move a request away, or report why not."""
        self._run(lambda: self._begin(order))

    def drain(self, on: bool) -> None:
        """Start or stop draining: accept nothing, and bounce queued requests."""
        self.host.draining = on
        self.host.hooks.set_terminating(on)
        self.bounce_queued()

    def bounce_queued(self) -> None:
        """While draining, send queued requests back to the frontend; call this periodically."""
        if self.host.draining:
            for view in self.host.hooks.requests():
                if view.phase is RequestPhase.QUEUED:
                    self.host.hooks.requeue(view.request_id)

    def recall(self, request_id: RequestId, owner: str) -> tuple[Recollection, tuple[int, ...]]:
        """Return what is known of a request that a client asks for again, and its output."""
        if any(view.request_id == request_id for view in self.host.hooks.requests()):
            return Recollection.RUNNING, ()
        return self.memory.recall(request_id, owner)

    def load(self) -> InstanceLoad:
        """Report the instance's load now."""
        return replace(self.host.hooks.load(), terminating=self.host.draining)

    def stats(self) -> dict[str, dict[str, int]]:
        """Count events: outcomes by role, and messages dropped because they came late."""
        return {
            "migrations_out": dict(self.host.outcomes_out),
            "migrations_in": dict(self.host.outcomes_in),
            "dropped": dict(self.host.dropped),
            "active": {"out": len(self.departures), "in": len(self.arrivals)},
        }

    # --- the engine ---

    def stepped(self) -> None:
        """Note that an engine step ended; called for every step, so it must cost nothing."""
        self.host.step.stepped(self.host.clock())

    def detached(self, request_id: RequestId, state: RequestState) -> None:
        """Continue with a request that left the batch."""
        self._run(lambda: self.departures.feed_request(request_id, ev.Detached(state)))

    def gone(self, request_id: RequestId, why: Gone) -> None:
        """Give up moving a request that finished, was cancelled or preempted."""
        if why is not Gone.PREEMPTED:
            self._moved_at_s.pop(request_id, None)
        if self.departures.moving(request_id):
            self._run(lambda: self.departures.feed_request(request_id, ev.Left(why)))

    # --- other llumlets ---

    def received(self, message: Message, sender: Sender) -> None:
        """Take a message that arrived on connection `sender`."""
        self._run(lambda: self._route(message, sender))

    def landing(self, blocks: Blocks) -> Landing:
        """Return where the payload of a frame of blocks goes."""
        assert not self._busy
        return self.arrivals.landing(blocks)

    def landed(self, landing: Landing, *, intact: bool) -> None:
        """Note that the payload has arrived; `intact` says whether its checksum is right."""
        self._run(lambda: self.arrivals.landed(landing, intact=intact))
        self._note_attached()

    def peer_lost(self, peer: Peer) -> None:
        """Note that the link to a destination broke."""
        self._run(lambda: self.departures.peer_lost(peer))

    def sender_lost(self, sender: Sender) -> None:
        """Note that a connection on which messages arrived broke."""
        self._run(lambda: self.arrivals.sender_lost(sender))

    # --- the driver ---

    def frame_sent(self, ship: Ship, n_blocks: int, n_bytes: int, seconds: float = 0.0) -> None:
        """Note that some of a stage's blocks were handed to the network, and how long it took."""
        event = ev.FrameSent(n_blocks, n_bytes, seconds)
        self._run(lambda: self.departures.feed_attempt(ship.migration_id, ship.epoch, event))

    def ask_failed(self, query: Query) -> None:
        """Note that a question could not be asked, or was not answered."""
        event = ev.AskFailed()
        self._run(lambda: self.departures.feed_attempt(query.migration_id, query.epoch, event))

    def timer_fired(self, key: TimerKey, name: str) -> None:
        """Note that a timer ran out."""
        self._run(lambda: self._wake(key, name))

    def stop(self, reason: str) -> None:
        """Undo what can be undone: the instance is shutting down."""
        self._run(lambda: self.departures.stop_all(reason))

    # --- within ---

    def _run(self, work: Callable[[], None]) -> None:
        self._waiting.append(work)
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._busy = False

    def _wake(self, key: TimerKey, name: str) -> None:
        if key.side == "out":
            self.departures.feed_attempt(key.migration_id, key.epoch, ev.TimerFired(name))
        else:
            self.arrivals.timer_fired(key.migration_id, key.epoch, name)

    def _route(self, message: Message, sender: Sender) -> None:
        leaving = message.migration_id in self.departures
        match message:
            case Blocks():
                self.host.dropped["misplaced"] += 1
            case Reserved() | Refused() | StageAck() | Committed():
                self.departures.feed(message.migration_id, message)
            case Abort() if leaving:
                self.departures.feed(message.migration_id, message)
            case _:
                self.arrivals.receive(message, sender, self._denial(message))
        self._note_attached()

    def _denial(self, message: Message) -> str | None:
        if not isinstance(message, Reserve):
            return None
        if self.host.draining:
            return "draining"
        if message.migration_id in self.departures:
            return "migration id in use"
        if self.departures.moving(message.request_id):
            return "request is moving away from here"
        if self.arrivals.arriving(message.request_id, other_than=message.migration_id):
            return "request is moving here already"
        return None

    def _note_attached(self) -> None:
        for request_id in self.arrivals.attached:
            self._moved_at_s[request_id] = self._now_s()
            if len(self._moved_at_s) > MAX_MOVED:
                self._moved_at_s.popitem(last=False)
        self.arrivals.attached.clear()

    def _now_s(self) -> float:
        return self.host.clock() * self._speed

    def _begin(self, order: MigrateOut) -> None:
        chosen = self._choose(order)
        if isinstance(chosen, Denied):
            self._decline(order, chosen.reason)
            return
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        self.departures.begin(order, chosen, epoch)

    def _choose(self, order: MigrateOut) -> RequestId | Denied:
        host = self.host
        if order.destination.instance_id == host.instance_id:
            return Denied("source and destination are the same")
        if order.migration_id in self.departures:
            return Denied("migration id in use")
        if len(self.departures) >= host.config.max_concurrent_out:
            return Denied("too many requests are moving away")
        views = [self._seen(view) for view in host.hooks.requests()]
        if order.request_id is None:
            cooldown_s = 0.0 if order.reason == MigrateReason.DRAIN else host.config.cooldown_s
            victim = choose_victim(views, order.max_context_tokens, self._now_s(), cooldown_s)
            return Denied("no request to move") if victim is None else victim
        view = next((view for view in views if view.request_id == order.request_id), None)
        if view is None:
            return Denied("no such request")
        if view.phase is not RequestPhase.RUNNING or not view.movable:
            return Denied("request cannot be moved now")
        return view.request_id

    def _seen(self, view: RequestView) -> RequestView:
        moved_at_s = self._moved_at_s.get(view.request_id, view.moved_at_s)
        moving = self.departures.moving(view.request_id)
        if moved_at_s == view.moved_at_s and not moving:
            return view
        return replace(view, movable=view.movable and not moving, moved_at_s=moved_at_s)

    def _decline(self, order: MigrateOut, reason: str) -> None:
        event = MigrationEvent(
            kind=EventKind.REFUSED,
            migration_id=order.migration_id,
            request_id=order.request_id or "",
            source=self.host.instance_id,
            destination=order.destination.instance_id,
            reason=order.reason,
            detail=reason,
        )
        self.host.effects.append(Announce(event))
