"""Tries every order in which things can happen, with a bounded number of faults."""

import enum
import gc
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from migration.llumlet.arrivals import Arrival
from migration.protocol.messages import Blocks, Commit, Message
from migration.protocol.source import Source
from tests.migration.copying import freeze, thaw
from tests.migration.moves import FAULTS, Move, faults, moves, perform
from tests.migration.protocol.world import Site, World

LONGEST_END = 1000
"""Moves within which every world must come to rest (INV-6)."""


@dataclass
class Explored:
    """What an exploration saw."""

    states: int = 0
    transitions: int = 0
    settled: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seen: set[enum.Enum] = field(default_factory=set)
    """The states of both machines that occurred."""

    def told(self) -> str:
        """Say it in a line."""
        return f"{self.states} states, {self.transitions} transitions, {self.settled} ends"


class BrokenLawError(AssertionError):
    """An invariant was broken; the message tells how to come there."""


def explore(start: World, *, faults_allowed: int, kinds: tuple[str, ...] = FAULTS) -> Explored:
    """Visit every state reachable from `start`; check the laws at each and at every end.

    Raises BrokenLawError with the path that leads to the breach.
    """
    gc.disable()  # nothing here makes cycles that matter, and looking for them takes long
    try:
        return _explore(start, faults_allowed, kinds)
    finally:
        gc.enable()


def _explore(start: World, faults_allowed: int, kinds: tuple[str, ...]) -> Explored:
    explored = Explored()
    seen = {fingerprint(start, faults_allowed)}
    queue: deque[tuple[bytes, int, tuple[Move, ...]]] = deque()
    queue.append((freeze(start), faults_allowed, ()))
    while queue:
        frozen, budget, path = queue.popleft()
        explored.states += 1
        world = thaw(frozen)
        explored.seen.update(_machine_states(world))
        options = [] if settled(world) else [(move, budget) for move in moves(world)]
        if not options:
            _check_end(world, path, explored)
            continue
        if budget:
            options += [(move, budget - 1) for move in faults(world, kinds)]
        for number, (move, left) in enumerate(options, 1):
            explored.transitions += 1
            after = world if number == len(options) else thaw(frozen)
            _perform(after, move, (*path, move))
            mark = fingerprint(after, left)
            if mark not in seen:
                seen.add(mark)
                queue.append((freeze(after), left, (*path, move)))
    return explored


def _machine_states(world: World) -> Iterator[enum.Enum]:
    for site in world.sites.values():
        yield from (source.state for source in site.llumlet.departures.sources())
        yield from (machine.state for machine in site.llumlet.arrivals.machines())
        yield from (item.machine.state for item in site.llumlet.arrivals._ended.values())


def settled(world: World) -> bool:
    """Say whether no migration is under way, nothing travels and every stream has a feeder."""
    if not world.quiet() or world.frontend.waiting():
        return False
    return not any(
        site.timers
        or len(site.llumlet.departures)
        or len(site.llumlet.arrivals)
        or site.engine.unclaimed()
        for site in world.sites.values()
    )


def run_to_rest(world: World) -> None:
    """Let ordinary things happen, each in its turn, until none can; that must be soon (INV-6)."""
    for turn in range(LONGEST_END):
        options = list(moves(world))
        if not options:
            break
        perform(world, options[turn % len(options)])
    else:
        raise AssertionError("does not come to rest")
    check_rest(world)


def check_rest(world: World) -> None:
    """Hold what must be true at the end: all streams whole, nothing leaked, nobody waiting."""
    for stream in world.frontend.streams.values():
        assert stream.state != "open", "a stream was lost"
        if stream.state == "finished":
            assert tuple(stream.tokens) == stream.expected
        if world.sites:
            assert stream.state != "failed", "a stream failed though an instance lives"
    for site in world.sites.values():
        assert sorted(site.engine.free) == list(range(site.engine.n_blocks)), "blocks leaked"
        assert not site.engine.reservations, "a reservation leaked"
        assert not site.engine.running, "a request never ended"
        assert not site.timers, "a timer is armed for nothing"
        assert len(site.llumlet.departures) == len(site.llumlet.arrivals) == 0


def _perform(world: World, move: Move, path: tuple[Move, ...]) -> None:
    try:
        perform(world, move)
    except Exception as error:
        raise BrokenLawError(f"{error!r} after:\n{_told(path)}") from error


def _check_end(world: World, path: tuple[Move, ...], explored: Explored) -> None:
    explored.settled += 1
    explored.outcomes.update(world.outcomes.values())
    try:
        run_to_rest(world)
    except Exception as error:
        raise BrokenLawError(f"{error!r} at rest after:\n{_told(path)}") from error


def _told(path: tuple[Move, ...]) -> str:
    return "\n".join(f"  {move}" for move in path)


def fingerprint(world: World, budget: int) -> int:
    """Condense all that matters for what can happen next."""
    parts: list[Hashable] = [budget, world.lossy]
    parts += [_site_mark(site) for site in world.sites.values()]
    letters = [(item.to, item.sender, key_of(item.message)) for item in world.letters]
    touchdowns = [
        (item.to, key_of(item.landing.blocks), item.landing.open) for item in world.touchdowns
    ]
    parts += [tuple(sorted(map(repr, letters))), tuple(sorted(map(repr, touchdowns)))]
    parts.append(tuple(sorted((item.to, item.lost) for item in world.notices)))
    parts.append(tuple((item.ship, tuple(item.left)) for item in world.transmissions))
    parts += [
        (len(stream.tokens), stream.feeder, stream.redirect, stream.state)
        for stream in world.frontend.streams.values()
    ]
    parts.append(frozenset(world.left_behind))
    return hash(tuple(parts))


def _site_mark(site: Site) -> Hashable:
    engine, llumlet = site.engine, site.llumlet
    requests = tuple(
        (
            request.request_id,
            request.phase,
            request.kv_tokens,
            len(request.outputs),
            request.wants_detach,
            request.migration_id,
            b"".join(engine.views(request.blocks)),
        )
        for request in engine.running.values()
    )
    return (
        site.name,
        requests,
        tuple((key, len(blocks)) for key, blocks in engine.reservations.items()),
        tuple(engine.unclaimed_finished),
        engine.denies_room,
        engine.denies_attach,
        tuple(site.timers.items()),
        tuple(map(_source_mark, llumlet.departures.sources())),
        tuple(map(_arrival_mark, llumlet.arrivals._active.values())),
        tuple((key, arrival.machine.state) for key, arrival in llumlet.arrivals._ended.items()),
    )


def _source_mark(source: Source) -> Hashable:
    return (
        source.trip.migration_id,
        source.state,
        source.stage,
        source.copied_blocks,
        source._reserved_blocks,
        source._sending_blocks,
        source._unsent_blocks,
        source._asked,
    )


def _arrival_mark(arrival: Arrival) -> Hashable:
    machine = arrival.machine
    return (
        machine.migration_id,
        machine.state,
        machine.stage,
        machine._room_blocks,
        frozenset(machine._received),
        frozenset(machine._landing),
        machine._promised_blocks,
        len(arrival.landings),
    )


def key_of(message: Message) -> tuple[object, ...]:
    """Shorten a message to what tells it from others."""
    name, epoch = message.migration_id, message.epoch
    if isinstance(message, Commit):
        return ("Commit", name, epoch, message.n_blocks, len(message.state.output_token_ids))
    if isinstance(message, Blocks):
        return ("Blocks", name, epoch, message.stage, message.first_block, message.checksum)
    return (type(message).__name__, name, epoch, getattr(message, "stage", None))
