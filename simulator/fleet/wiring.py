"""The driver of simulated llumlets: messages, blocks and timers in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from migration.llumlet.effects import (
    Announce,
    Answer,
    Arm,
    AskPeer,
    Disarm,
    Effect,
    Say,
    Ship,
    TimerKey,
)
from migration.llumlet.fleet_messages import MigrationEvent
from migration.llumlet.llumlet import Llumlet
from migration.protocol.messages import Blocks, Message, Query
from policies.types import InstanceId
from simulator.events import NS_PER_S, Event, EventQueue, Priority
from simulator.fleet.instance import InstanceShape
from simulator.fleet.network import Flow, Network

_NO_CHECKSUM = 0


class Wired(Protocol):
    """What is wired up: an instance with its llumlet. `copies` counts stages from and to it."""

    instance_id: InstanceId
    shape: InstanceShape
    llumlet: Llumlet
    copies: int


W = TypeVar("W", bound=Wired)


@dataclass(slots=True, eq=False)
class Shipment:
    """Blocks on their way."""

    ship: Ship
    source: Wired
    destination: Wired
    began_ns: int
    flow: Flow | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """Identifies the connection a question came by: only its asker gets the answer."""

    asker: InstanceId


class Wiring(Generic[W]):
    """Carries out the llumlets' effects. `announced` is called for migrations that start or end."""

    def __init__(
        self, events: EventQueue, network: Network, announced: Callable[[MigrationEvent], None]
    ) -> None:
        self.instances: dict[InstanceId, W] = {}
        self._announced = announced
        self._events = events
        self._network = network
        self._timers: dict[tuple[InstanceId, TimerKey], Event] = {}
        self._shipments: list[Shipment] = []

    def pump(self, instance: Wired) -> None:
        """Carry out all pending effects of an instance's llumlet."""
        for effect in instance.llumlet.take_effects():
            self._carry_out(instance, effect)
        for shipment in [each for each in self._shipments if each.source is instance]:
            if instance.llumlet.departures.moves(shipment.ship) is None:
                self._end(shipment)

    def lose(self, instance: Wired) -> None:
        """Remove a dead instance from the network: its links break."""
        for key in [key for key in self._timers if key[0] == instance.instance_id]:
            self._timers.pop(key).cancel()
        for shipment in list(self._shipments):
            if instance in (shipment.source, shipment.destination):
                self._end(shipment)
        del self.instances[instance.instance_id]
        for other in list(self.instances.values()):
            for departure in other.llumlet.departures.peers():
                if departure.instance_id == instance.instance_id:
                    other.llumlet.peer_lost(departure)
            other.llumlet.sender_lost(instance.instance_id)
            self.pump(other)

    def _carry_out(self, instance: Wired, effect: Effect) -> None:
        me = instance.instance_id
        match effect:
            case Say(peer, message):
                self._post(peer.instance_id, message, me)
            case Answer(sender, message):
                asker = sender.asker if isinstance(sender, _Question) else sender
                assert isinstance(asker, str)
                self._post(InstanceId(asker), message, None)
            case AskPeer(peer, query):
                self._ask(instance, peer.instance_id, query)
            case Ship():
                self._ship(instance, effect)
            case Arm(key, name, seconds):
                self._disarm(me, key)
                delay_ns = round(seconds * NS_PER_S)
                self._timers[me, key] = self._events.after(
                    delay_ns, Priority.DECISION, lambda: self._fire(instance, key, name)
                )
            case Disarm(key):
                self._disarm(me, key)
            case Announce(event):
                self._announced(event)

    def _post(self, to: InstanceId, message: Message, sender: object) -> None:
        def deliver() -> None:
            instance = self.instances.get(to)
            if instance is not None:
                instance.llumlet.received(message, sender)
                self.pump(instance)

        self._network.post(deliver)

    def _ask(self, asker: Wired, to: InstanceId, query: Query) -> None:
        if to in self.instances:
            self._post(to, query, _Question(asker.instance_id))
            return

        def failed() -> None:
            asker.llumlet.ask_failed(query)
            self.pump(asker)

        self._network.post(failed)

    def _ship(self, source: Wired, ship: Ship) -> None:
        """Send a stage in one piece."""
        destination = self.instances.get(ship.peer.instance_id)
        if destination is None:
            return  # the link breaks; that was told, or will be
        blocks = Blocks(
            ship.migration_id,
            ship.epoch,
            ship.stage,
            ship.first_block,
            ship.n_blocks,
            _NO_CHECKSUM,
        )
        shipment = Shipment(ship, source, destination, self._events.now_ns)
        self._shipments.append(shipment)
        source.copies += 1
        destination.copies += 1
        n_bytes = ship.n_blocks * source.shape.layout.block_bytes
        shipment.flow = self._network.send(
            source.instance_id,
            destination.instance_id,
            n_bytes,
            lambda: self._landed(shipment, blocks, n_bytes),
        )

    def _landed(self, shipment: Shipment, blocks: Blocks, n_bytes: int) -> None:
        self._end(shipment)
        source, destination = shipment.source, shipment.destination
        landing = destination.llumlet.landing(blocks)
        self.pump(destination)
        destination.llumlet.landed(landing, intact=True)
        self.pump(destination)
        took_s = (self._events.now_ns - shipment.began_ns) / NS_PER_S
        source.llumlet.frame_sent(shipment.ship, blocks.n_blocks, n_bytes, took_s)
        self.pump(source)

    def _end(self, shipment: Shipment) -> None:
        self._shipments.remove(shipment)
        shipment.source.copies -= 1
        shipment.destination.copies -= 1
        if shipment.flow is not None:
            self._network.cut(shipment.flow)

    def _fire(self, instance: Wired, key: TimerKey, name: str) -> None:
        del self._timers[instance.instance_id, key]
        instance.llumlet.timer_fired(key, name)
        self.pump(instance)

    def _disarm(self, me: InstanceId, key: TimerKey) -> None:
        timer = self._timers.pop((me, key), None)
        if timer is not None:
            timer.cancel()
