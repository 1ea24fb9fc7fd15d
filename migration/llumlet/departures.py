"""Requests moving away from this instance: one `Source` each, and its instructions carried out."""

from dataclasses import dataclass

from migration.llumlet.effects import Announce, Arm, AskPeer, Disarm, Say, Ship, TimerKey
from migration.llumlet.fleet_messages import EventKind, MigrateOut, MigrationEvent
from migration.llumlet.host import Host
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol.messages import Message
from migration.protocol.pacing import Bandwidth
from migration.protocol.peer import Peer
from migration.protocol.source import Source
from migration.protocol.trip import Trip
from policies.types import InstanceId, MigrationId, RequestId

_KINDS = {
    do.Outcome.COMMITTED: EventKind.COMMITTED,
    do.Outcome.REFUSED: EventKind.REFUSED,
    do.Outcome.ABORTED: EventKind.ABORTED,
    do.Outcome.UNRESOLVED: EventKind.ABORTED,
}


@dataclass(slots=True)
class Departure:
    """One request on its way out."""

    source: Source
    peer: Peer
    reason: str
    started_s: float


class Departures:
    """All requests moving away; events find their machine by migration or by request."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._by_id: dict[MigrationId, Departure] = {}
        self._by_request: dict[RequestId, MigrationId] = {}
        self._bandwidths: dict[InstanceId, Bandwidth] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, migration_id: MigrationId) -> bool:
        return migration_id in self._by_id

    def moving(self, request_id: RequestId) -> bool:
        """Whether this request is on its way out."""
        return request_id in self._by_request

    def peers(self) -> list[Peer]:
        """List the destinations of all requests moving away, each once."""
        return list({each.peer.instance_id: each.peer for each in self._by_id.values()}.values())

    def sources(self) -> list[Source]:
        """List the machines, for stats and tests."""
        return [departure.source for departure in self._by_id.values()]

    def begin(self, order: MigrateOut, request_id: RequestId, epoch: int) -> None:
        """Start moving a request; it must be running and not moving yet."""
        host = self._host
        peer = order.destination
        trip = Trip(
            order.migration_id,
            epoch,
            request_id,
            host.instance_id,
            peer.instance_id,
            host.hooks.layout(),
        )
        bandwidth = self._bandwidths.setdefault(peer.instance_id, Bandwidth())
        source = Source(trip, host.config, bandwidth, abilities=host.hooks.abilities())
        departure = Departure(source, peer, order.reason, host.clock())
        self._by_id[order.migration_id] = departure
        self._by_request[request_id] = order.migration_id
        host.hooks.departing(request_id, source.redirect)
        self._announce(departure, EventKind.STARTED)
        self.feed(order.migration_id, ev.Start())

    def feed(self, migration_id: MigrationId, event: ev.SourceEvent | Message) -> None:
        """Hand an event or message to its machine and carry out its instructions."""
        departure = self._by_id.get(migration_id)
        if departure is None:
            self._host.dropped["late"] += 1
            return
        trip = departure.source.trip
        moment = ev.Moment(
            now_s=self._host.clock(),
            kv_tokens=self._host.hooks.kv_tokens(trip.request_id),
            step_s=self._host.step.value_s(),
        )
        for instruction in departure.source.handle(event, moment):
            self._carry_out(departure, instruction)

    def feed_request(self, request_id: RequestId, event: ev.Detached | ev.Left) -> None:
        """Hand an engine's event to the machine moving this request, if there is one."""
        migration_id = self._by_request.get(request_id)
        if migration_id is not None:
            self.feed(migration_id, event)

    def feed_attempt(self, migration_id: MigrationId, epoch: int, event: ev.SourceEvent) -> None:
        """Hand a driver's event to an attempt, if it is still the current one."""
        departure = self._by_id.get(migration_id)
        if departure is not None and departure.source.epoch == epoch:
            self.feed(migration_id, event)

    def peer_lost(self, peer: Peer) -> None:
        """Tell every machine that was using the link to `peer`."""
        lost = [key for key, departure in self._by_id.items() if departure.peer == peer]
        for migration_id in lost:
            self.feed(migration_id, ev.PeerLost())

    def stop_all(self, reason: str) -> None:
        """Undo whatever can still be undone."""
        for migration_id in list(self._by_id):
            self.feed(migration_id, ev.Stop(reason))

    def views(self, ship: Ship, first_block: int, n_blocks: int) -> list[memoryview] | None:
        """Return the bytes of blocks being shipped; None when the attempt is over."""
        request_id = self.moves(ship)
        if request_id is None:
            return None
        return self._host.hooks.gather(request_id, first_block, n_blocks)

    def moves(self, ship: Ship) -> RequestId | None:
        """Return which request an attempt moves; None when the attempt is over."""
        departure = self._by_id.get(ship.migration_id)
        if departure is None or departure.source.epoch != ship.epoch:
            return None
        return departure.source.trip.request_id

    def _carry_out(self, departure: Departure, instruction: do.SourceInstruction) -> None:
        trip, effects, hooks = departure.source.trip, self._host.effects, self._host.hooks
        key = TimerKey("out", trip.migration_id, trip.epoch)
        match instruction:
            case do.Send(message):
                effects.append(Say(departure.peer, message))
            case do.SendBlocks(stage, first, n):
                ship = Ship(departure.peer, trip.migration_id, trip.epoch, stage, first, n)
                effects.append(ship)
            case do.Ask(query):
                effects.append(AskPeer(departure.peer, query))
            case do.SetTimer(name, seconds):
                effects.append(Arm(key, name, seconds))
            case do.CancelTimer():
                effects.append(Disarm(key))
            case do.Drop(what):
                self._host.dropped[what] += 1
            case do.Detach():
                hooks.detach(trip.request_id)
            case do.Reattach():
                hooks.reattach(trip.request_id)
            case do.Release(redirect):
                hooks.release(trip.request_id, redirect)
            case do.Ended():
                self._ended(departure, instruction)

    def _ended(self, departure: Departure, ended: do.Ended) -> None:
        trip = departure.source.trip
        del self._by_id[trip.migration_id]
        del self._by_request[trip.request_id]
        self._host.hooks.departed(trip.request_id)
        self._host.outcomes_out[ended.outcome.value] += 1
        unresolved = ended.outcome is do.Outcome.UNRESOLVED
        self._announce(departure, _KINDS[ended.outcome], ended.reason, unresolved=unresolved)

    def _announce(
        self, departure: Departure, kind: EventKind, detail: str = "", *, unresolved: bool = False
    ) -> None:
        source, now_s = departure.source, self._host.clock()
        held = source.held
        detached_s = source.detached_s
        event = MigrationEvent(
            kind=kind,
            migration_id=source.trip.migration_id,
            request_id=source.trip.request_id,
            source=source.trip.source,
            destination=source.trip.destination,
            reason=departure.reason,
            stages=source.stage + 1,
            copied_tokens=held.kv_tokens if held else _copied_tokens(source),
            copied_bytes=source.copied_bytes,
            source_downtime_s=0.0 if detached_s is None else now_s - detached_s,
            started_at_s=now_s - departure.started_s,
            detail=detail,
            unresolved=unresolved,
        )
        self._host.effects.append(Announce(event))


def _copied_tokens(source: Source) -> int:
    return source.copied_blocks * source.trip.layout.block_tokens


def frames(ship: Ship, each: int) -> list[tuple[int, int]]:
    """Split a stage into frames of at most `each` blocks: (first block, count) per frame."""
    end = ship.first_block + ship.n_blocks
    return [(first, min(each, end - first)) for first in range(ship.first_block, end, each)]
