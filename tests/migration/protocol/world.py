"""Two instances, a network that may do anything, and a frontend: one step at a time.

`actions` lists what can happen next, `apply` lets it happen and checks the invariants that must
hold at every instant. The explorer tries all orders; the Hypothesis machine tries long ones.
"""

import zlib
from dataclasses import dataclass

from migration.config import MigrationConfig
from migration.llumlet.departures import frames
from migration.llumlet.effects import Announce, Answer, Arm, AskPeer, Disarm, Say, Ship, TimerKey
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from migration.llumlet.llumlet import Llumlet
from migration.protocol.landing import Landing
from migration.protocol.messages import Blocks, Message, Query
from migration.protocol.peer import Peer
from policies.types import InstanceId, MigrateReason, MigrationId, RequestId
from tests.migration.fake_engine import FakeEngine
from tests.migration.protocol.frontend_model import Frontend

CONFIG = MigrationConfig(max_stages=2, slack_blocks=1, query_attempts=1)


class StoppedClock:
    """A clock that stands still: orders of events are explored, not durations."""

    def now_s(self) -> float:
        return 0.0


@dataclass(eq=False)
class Letter:
    """A message on its way; `sender` names the connection, answers go to `sender`'s maker."""

    to: InstanceId
    message: Message
    sender: tuple[str, InstanceId]
    payload: bytes = b""
    asks: Query | None = None


@dataclass(eq=False)
class Notice:
    """The news that a peer is gone, on its way."""

    to: InstanceId
    lost: InstanceId


@dataclass(eq=False)
class Touchdown:
    """A frame whose header was read; its payload comes in now."""

    to: InstanceId
    landing: Landing
    payload: bytes


@dataclass(eq=False)
class Transmission:
    """Frames of a stage the source has still to send."""

    to: InstanceId
    by: InstanceId
    ship: Ship
    left: list[tuple[int, int]]


class Site:
    """An instance: engine, llumlet and armed timers."""

    def __init__(
        self,
        name: str,
        n_blocks: int,
        frontend: Frontend,
        config: MigrationConfig,
        engine: type[FakeEngine],
    ) -> None:
        self.name = InstanceId(name)
        self.engine = engine(self.name, n_blocks, frontend)
        self.llumlet = Llumlet(self.engine, config, self.name, StoppedClock().now_s)
        self.engine.listener = self.llumlet
        self.timers: dict[TimerKey, str] = {}
        self.peer = Peer(self.name, self.name, 1)


class World:
    """Everything there is; picklable, so that it can be copied and tried again."""

    def __init__(
        self,
        *,
        n_blocks: int = 8,
        frame_blocks: int = 1,
        config: MigrationConfig = CONFIG,
        engine: type[FakeEngine] = FakeEngine,
    ) -> None:
        self.frontend = Frontend()
        self.frame_blocks = frame_blocks
        self.sites = {
            InstanceId(name): Site(name, n_blocks, self.frontend, config, engine)
            for name in ("A", "B")
        }
        self.letters: list[Letter] = []
        self.notices: list[Notice] = []
        self.touchdowns: list[Touchdown] = []
        self.transmissions: list[Transmission] = []
        self.started: dict[MigrationId, tuple[InstanceId, RequestId]] = {}
        self.outcomes: dict[MigrationId, str] = {}
        self.attached: set[MigrationId] = set()
        self.lossy = False
        self.left_behind: set[tuple[InstanceId, RequestId, int]] = set()

    def engines(self) -> dict[InstanceId, FakeEngine]:
        return {name: site.engine for name, site in self.sites.items()}

    # --- beginnings ---

    def request(self, at: str, name: str, prompt_tokens: int, max_tokens: int) -> None:
        """Let a client send a request to an instance, and let it run one step."""
        engine = self.sites[InstanceId(at)].engine
        prompt = [len(self.frontend.streams) * 100 + i for i in range(prompt_tokens)]
        self.frontend.open(engine, RequestId(name), prompt, max_tokens)
        engine.step()

    def migrate(self, migration: str, name: str | None, source: str, destination: str) -> None:
        """Give the order to move a request."""
        migration_id, to = MigrationId(migration), InstanceId(destination)
        peer = self.sites[to].peer if to in self.sites else Peer(to, to, 1)
        self.frontend.destinations[migration_id] = to
        request_id = None if name is None else RequestId(name)
        site = self.sites[InstanceId(source)]
        site.llumlet.order(
            MigrateOut(migration_id, peer, request_id, 1 << 20, MigrateReason.MANUAL)
        )
        self.pump()

    # --- what can happen ---

    def deliver(self, letter: Letter) -> None:
        """Let a message arrive."""
        site = self.sites.get(letter.to)
        if site is None:
            asker = self.sites.get(letter.sender[1])
            if letter.asks is not None and asker is not None:
                asker.llumlet.ask_failed(letter.asks)
        elif isinstance(letter.message, Blocks):
            landing = site.llumlet.landing(letter.message)
            self.touchdowns.append(Touchdown(letter.to, landing, letter.payload))
        else:
            site.llumlet.received(letter.message, letter.sender)

    def touch_down(self, touchdown: Touchdown) -> None:
        """Let a frame's payload arrive, in the reserved blocks if they still are."""
        site = self.sites[touchdown.to]
        landing, payload = touchdown.landing, touchdown.payload
        if landing.open:
            offset, checksum = 0, 0
            for view in site.llumlet.arrivals.views(landing):
                view[:] = payload[offset : offset + len(view)]
                offset, checksum = offset + len(view), zlib.crc32(view, checksum)
            intact = checksum == landing.blocks.checksum
            site.llumlet.landed(landing, intact=intact)

    def transmit(self, transmission: Transmission) -> None:
        """Let the source send its next frame."""
        site, ship = self.sites[transmission.by], transmission.ship
        first, n = transmission.left.pop(0)
        views = site.llumlet.departures.views(ship, first, n)
        if views is None or not transmission.left:
            self.transmissions.remove(transmission)
        if views is None:
            return
        payload = b"".join(views)
        blocks = Blocks(ship.migration_id, ship.epoch, ship.stage, first, n, zlib.crc32(payload))
        self.letters.append(Letter(transmission.to, blocks, ("bulk", site.name), payload))
        site.llumlet.frame_sent(ship, n, len(payload))

    def notify(self, notice: Notice) -> None:
        """Let an instance notice that a peer is gone."""
        llumlet = self.sites[notice.to].llumlet
        llumlet.peer_lost(Peer(notice.lost, notice.lost, 1))
        llumlet.sender_lost(("peer", notice.lost))

    def repair(self, request_id: RequestId) -> None:
        """Let the frontend see to a stream nobody feeds."""
        self.frontend.repair(request_id, self.engines())

    def crash(self, name: InstanceId) -> None:
        """Let an instance vanish, with all that was going on in it."""
        del self.sites[name]
        self.lossy = True
        self.transmissions = [item for item in self.transmissions if item.by != name]
        self.touchdowns = [item for item in self.touchdowns if item.to != name]
        self.letters = [item for item in self.letters if item.to != name or item.asks]
        self.notices = [Notice(other, name) for other in self.sites]
        self.frontend.instance_lost(name)

    def cancel(self, site: Site, request_id: RequestId) -> None:
        """Let a client leave, and the engine notice."""
        for key, stream in self.frontend.streams.items():
            if stream.feeder == (site.name, request_id):
                self.frontend.cancelled(key)
        site.engine.cancel(request_id)

    # --- carrying out effects, and what must hold always ---

    def pump(self) -> None:
        """Carry out what the llumlets want, then check the invariants."""
        for site in list(self.sites.values()):
            for effect in site.llumlet.take_effects():
                self._carry_out(site, effect)
        self.check()

    def _carry_out(self, site: Site, effect: object) -> None:
        match effect:
            case Say(peer, message):
                self._post(Letter(peer.instance_id, message, ("peer", site.name)))
            case Answer(sender, message):
                assert isinstance(sender, tuple)
                self._post(Letter(sender[1], message, ("answer", site.name)))
            case AskPeer(peer, query):
                self.letters.append(Letter(peer.instance_id, query, ("ask", site.name), asks=query))
            case Ship(peer=peer):
                left = frames(effect, self.frame_blocks)
                item = Transmission(peer.instance_id, site.name, effect, left)
                self.transmissions.append(item)
            case Arm(key, name, _):
                site.timers[key] = name
            case Disarm(key):
                site.timers.pop(key, None)
            case Announce(event):
                self._note(event)

    def _note(self, event: MigrationEvent) -> None:
        if event.kind == "started":
            request_id = RequestId(event.request_id)
            self.started[event.migration_id] = (event.source, request_id)
        else:
            assert self.outcomes.setdefault(event.migration_id, event.kind) == event.kind

    def _post(self, letter: Letter) -> None:
        if letter.to in self.sites:
            self.letters.append(letter)
        elif letter.sender[0] == "peer":
            back = letter.sender[1]
            if not any(item.to == back for item in self.notices):
                self.notices.append(Notice(back, letter.to))

    def check(self) -> None:
        """Hold INV-1 and INV-3 at this instant (INV-2 and INV-4 are held by the frontend)."""
        for site in self.sites.values():
            site.engine.check_blocks()
            arriving = {machine.migration_id for machine in site.llumlet.arrivals.machines()}
            assert site.engine.reservations.keys() <= arriving, "a reservation nobody owns"
            for migration_id in site.engine.unclaimed():
                self._left_behind(migration_id)
        for name, request_id, order in self.left_behind:
            site_left = self.sites.get(name)
            request = site_left.engine.running.get(request_id) if site_left else None
            if request is not None and request.order == order:
                assert request.phase == "detached", "a request runs on two instances"

    def _left_behind(self, migration_id: MigrationId) -> None:
        """Remember the source's copy of an attached request: it must never run again."""
        if migration_id in self.attached:
            return
        self.attached.add(migration_id)
        name, request_id = self.started[migration_id]
        if name in self.sites:
            request = self.sites[name].engine.running.get(request_id)
            if request is not None:
                self.left_behind.add((name, request_id, request.order))

    def quiet(self) -> bool:
        """Say whether nothing is on its way."""
        return not (self.letters or self.notices or self.touchdowns or self.transmissions)
