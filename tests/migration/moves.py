"""What can happen next in a world: ordinary progress, and faults."""

from collections.abc import Iterator
from dataclasses import dataclass

from migration.llumlet.effects import TimerKey
from policies.types import InstanceId, MigrationId, RequestId
from tests.migration.protocol.world import Site, World

NOWHERE = InstanceId("")


@dataclass(frozen=True)
class Move:
    """Something that can happen: to the item at `index` of what is on its way, or at a site."""

    kind: str
    index: int = 0
    at: InstanceId = NOWHERE
    name: str = ""
    timer: TimerKey | None = None


FAULTS = (
    "drop",
    "double",
    "crash",
    "vanish",
    "cancel",
    "preempt",
    "deny room",
    "deny attach",
    "early timer",
    "early expiry",
)


def moves(world: World) -> Iterator[Move]:
    """List the ordinary things that can happen next.

    Timers fire when nothing travels and something was lost, or nothing else can happen at all;
    any earlier is a fault.
    """
    stuck = world.quiet() and (world.lossy or not _busy(world))
    yield from (Move("deliver", i) for i in range(len(world.letters)))
    yield from (Move("touch down", i) for i in range(len(world.touchdowns)))
    yield from (Move("transmit", i) for i in range(len(world.transmissions)))
    yield from (Move("notify", i) for i in range(len(world.notices)))
    yield from (Move("repair", name=key) for key in world.frontend.waiting())
    for name, site in world.sites.items():
        if site.engine.can_step():
            yield Move("step", at=name)
        if stuck:
            yield from (Move("fire", at=name, timer=key) for key in site.timers)
        yield from (Move("expire", at=name, name=key) for key in _abandoned(world, site))


def _busy(world: World) -> bool:
    return any(site.engine.can_step() for site in world.sites.values())


def faults(world: World, kinds: tuple[str, ...] = FAULTS) -> Iterator[Move]:
    """List the faults that can strike now."""
    for kind in kinds:
        if kind in ("drop", "double"):
            yield from (Move(kind, i) for i in range(len(world.letters)))
            continue
        for name, site in world.sites.items():
            yield from _faults_at(kind, name, site)


def _faults_at(kind: str, name: InstanceId, site: Site) -> Iterator[Move]:
    claimed = [item for item in site.engine.running.values() if item.migration_id is None]
    match kind:
        case "crash" | "vanish":
            yield Move(kind, at=name)
        case "deny room" if not site.engine.denies_room:
            yield Move(kind, at=name)
        case "deny attach" if not site.engine.denies_attach:
            yield Move(kind, at=name)
        case "cancel":
            yield from (Move(kind, at=name, name=item.request_id) for item in claimed)
        case "preempt":
            running = (item for item in claimed if item.phase == "running")
            yield from (Move(kind, at=name, name=item.request_id) for item in running)
        case "early timer":
            yield from (Move(kind, at=name, timer=key) for key in site.timers)
        case "early expiry":
            yield from (Move(kind, at=name, name=key) for key in site.engine.unclaimed())


def _abandoned(world: World, site: Site) -> Iterator[MigrationId]:
    """List attached requests nobody will come for any more."""
    awaited = {stream.redirect for stream in world.frontend.streams.values()}
    for migration_id in site.engine.unclaimed():
        source = world.sites.get(world.started[migration_id][0])
        moving = source is not None and migration_id in source.llumlet.departures
        if migration_id not in awaited and not moving:
            yield migration_id


def perform(world: World, move: Move) -> None:
    """Let a move happen; it must have been listed for this very world."""
    match move.kind:
        case "deliver":
            world.deliver(world.letters.pop(move.index))
        case "drop":
            world.letters.pop(move.index)
            world.lossy = True
        case "double":
            world.deliver(world.letters[move.index])
        case "touch down":
            world.touch_down(world.touchdowns.pop(move.index))
        case "transmit":
            world.transmit(world.transmissions[move.index])
        case "notify":
            world.notify(world.notices.pop(move.index))
        case "repair":
            world.repair(RequestId(move.name))
        case "crash":
            world.crash(move.at)
        case "vanish":
            world.crash(move.at)
            world.notices.clear()
        case _:
            _perform_at(world, world.sites[move.at], move)
    world.pump()


def _perform_at(world: World, site: Site, move: Move) -> None:
    match move.kind:
        case "step":
            site.engine.step()
        case "fire" | "early timer":
            assert move.timer is not None
            site.llumlet.timer_fired(move.timer, site.timers.pop(move.timer))
        case "expire" | "early expiry":
            site.engine.expire_claim(MigrationId(move.name))
        case "cancel":
            world.cancel(site, RequestId(move.name))
        case "preempt":
            site.engine.preempt(RequestId(move.name))
        case "deny room":
            site.engine.denies_room = True
        case "deny attach":
            site.engine.denies_attach = True
        case kind:
            raise ValueError(kind)
