"""Requests moving to this instance: one `Destination` each, and its instructions carried out."""

from collections import OrderedDict
from dataclasses import dataclass, field

from migration.llumlet.effects import Answer, Arm, Disarm, TimerKey
from migration.llumlet.host import Host
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol.destination import Destination, DestinationState
from migration.protocol.landing import Landing
from migration.protocol.messages import Blocks, Message, Query, Refused, Reserve
from migration.protocol.peer import Sender
from policies.types import MigrationId, RequestId


@dataclass(slots=True, eq=False)
class Arrival:
    """One request on its way in, or how that ended."""

    machine: Destination
    sender: Sender
    request_id: RequestId | None = None
    landings: list[Landing] = field(default_factory=list)


class Arrivals:
    """All requests moving in, and the remembered ends of those that did."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._active: dict[MigrationId, Arrival] = {}
        self._ended: OrderedDict[MigrationId, Arrival] = OrderedDict()
        self.attached: list[RequestId] = []

    def __len__(self) -> int:
        return len(self._active)

    def arriving(self, request_id: RequestId, other_than: MigrationId) -> bool:
        """Whether another migration is already bringing this request here."""
        return any(
            arrival.request_id == request_id and migration_id != other_than
            for migration_id, arrival in self._active.items()
        )

    def machines(self) -> list[Destination]:
        """List the machines that have not ended, for stats and tests."""
        return [arrival.machine for arrival in self._active.values()]

    def outcome(self, migration_id: MigrationId) -> DestinationState | None:
        """Look up how a migration to here ended; None when unknown or under way."""
        arrival = self._ended.get(migration_id)
        return arrival.machine.state if arrival else None

    def receive(self, message: Message, sender: Sender, denial: str | None) -> None:
        """Hand a message to its machine; `denial` is the reason if nothing is accepted now."""
        arrival = self._current(message.migration_id, message.epoch)
        if arrival is None:
            self._answer_stale(message, sender)
            return
        if not isinstance(message, Query):
            arrival.sender = sender
        if isinstance(message, Reserve) and arrival.request_id is None:
            arrival.request_id = message.request_id
        for instruction in arrival.machine.handle(message):
            if isinstance(instruction, do.Send):
                self._host.effects.append(Answer(sender, instruction.message))
            else:
                self._carry_out(arrival, instruction, denial)

    def landing(self, blocks: Blocks) -> Landing:
        """Return where a frame's payload goes: into reserved blocks, or (not open) nowhere."""
        arrival = self._active.get(blocks.migration_id)
        landing = Landing(blocks, open=False)
        if arrival is None:
            self._host.dropped["late"] += 1
            return landing
        arrival.landings.append(landing)
        self._feed(arrival, ev.BlocksOffered(blocks))
        if not landing.open and landing in arrival.landings:
            arrival.landings.remove(landing)
        return landing

    def landed(self, landing: Landing, *, intact: bool) -> None:
        """Note that a frame has arrived or broke on the way; nothing if it was dropped."""
        arrival = self._active.get(landing.blocks.migration_id)
        if arrival is None or not landing.open:
            return
        landing.open = False
        arrival.landings.remove(landing)
        blocks = landing.blocks
        if intact:
            self._host.hooks.arrived(blocks.migration_id, blocks.first_block, blocks.n_blocks)
        self._feed(arrival, ev.BlocksLanded(blocks, intact))

    def views(self, landing: Landing) -> list[memoryview]:
        """Return the reserved memory of an open landing."""
        assert landing.open, landing
        blocks = landing.blocks
        return self._host.hooks.reserved_views(
            blocks.migration_id, blocks.first_block, blocks.n_blocks
        )

    def timer_fired(self, migration_id: MigrationId, epoch: int, name: str) -> None:
        """Wake a machine, if it is still that of the current attempt."""
        arrival = self._active.get(migration_id)
        if arrival is not None and arrival.machine.epoch == epoch:
            self._feed(arrival, ev.TimerFired(name))

    def sender_lost(self, sender: Sender) -> None:
        """Tell every machine whose messages came over this connection."""
        lost = [arrival for arrival in self._active.values() if arrival.sender == sender]
        for arrival in lost:
            self._feed(arrival, ev.PeerLost())

    def _current(self, migration_id: MigrationId, epoch: int) -> Arrival | None:
        """Find or begin the arrival a message of this epoch belongs to; None when it is stale."""
        known = self._active.get(migration_id) or self._ended.get(migration_id)
        if known is not None:
            attached = known.machine.state is DestinationState.ATTACHED
            if epoch < known.machine.epoch or (attached and epoch != known.machine.epoch):
                return None
            if epoch == known.machine.epoch:
                return known
            if known.machine.migration_id in self._active:
                self._feed(known, ev.Superseded())
        host = self._host
        machine = Destination(
            migration_id, epoch, host.instance_id, host.hooks.layout(), host.config
        )
        arrival = Arrival(machine, sender=None)
        self._ended.pop(migration_id, None)
        self._active[migration_id] = arrival
        return arrival

    def _answer_stale(self, message: Message, sender: Sender) -> None:
        known = self._ended.get(message.migration_id)
        if known is not None and message.epoch > known.machine.epoch:
            refused = Refused(message.migration_id, message.epoch, "attached in an earlier attempt")
            self._host.effects.append(Answer(sender, refused))
        else:
            self._host.dropped["old epoch"] += 1

    def _feed(
        self, arrival: Arrival, event: ev.DestinationEvent, denial: str | None = None
    ) -> None:
        for instruction in arrival.machine.handle(event):
            self._carry_out(arrival, instruction, denial)

    def _carry_out(
        self, arrival: Arrival, instruction: do.DestinationInstruction, denial: str | None
    ) -> None:
        machine, effects, hooks = arrival.machine, self._host.effects, self._host.hooks
        key = TimerKey("in", machine.migration_id, machine.epoch)
        match instruction:
            case do.Send(message):
                effects.append(Answer(arrival.sender, message))
            case do.SetTimer(name, seconds):
                effects.append(Arm(key, name, seconds))
            case do.CancelTimer():
                effects.append(Disarm(key))
            case do.Drop(what):
                self._host.dropped[what] += 1
            case do.MakeRoom(n_blocks):
                self._make_room(arrival, n_blocks, denial)
            case do.FreeRoom():
                for landing in arrival.landings:
                    landing.open = False
                arrival.landings.clear()
                hooks.free_reservation(machine.migration_id)
            case do.Land():
                arrival.landings[-1].open = True
            case do.Attach(state):
                taken = hooks.attach(machine.migration_id, state)
                self._feed(arrival, ev.Attached() if taken else ev.AttachDenied())
            case do.Ended():
                self._end(arrival, instruction)

    def _make_room(self, arrival: Arrival, n_blocks: int, denial: str | None) -> None:
        if denial is None and len(self._active) > self._host.config.max_concurrent_in:
            denial = "too many requests are moving in"
        if denial is None and not self._host.hooks.reserve(arrival.machine.migration_id, n_blocks):
            denial = "no memory"
        self._feed(arrival, ev.RoomMade() if denial is None else ev.RoomDenied(denial))

    def _end(self, arrival: Arrival, ended: do.Ended) -> None:
        migration_id = arrival.machine.migration_id
        self._host.outcomes_in[ended.outcome.value] += 1
        if ended.outcome is do.Outcome.COMMITTED and arrival.request_id is not None:
            self.attached.append(arrival.request_id)
        self._active.pop(migration_id, None)
        arrival.request_id = None
        self._ended[migration_id] = arrival
        while len(self._ended) > self._host.config.max_remembered:
            self._ended.popitem(last=False)
