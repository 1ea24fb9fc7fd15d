"""The llumlet's driver: its sockets, timers and tasks, and nothing else."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from itertools import count

from migration.config import MigrationConfig
from migration.engine import EngineHooks, Gone, RequestState
from migration.errors import LinkError
from migration.links.link import Deliver, Link, Transport
from migration.links.pool import LinkPool
from migration.links.server import Listener
from migration.links.shaping import Shaper
from migration.links.tcp import TcpTransport, checksum, serve_bulk, serve_peer
from migration.llumlet.departures import frames
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
from migration.llumlet.fleet_port import FleetPort
from migration.llumlet.llumlet import Llumlet
from migration.llumlet.memory import Ended
from migration.protocol.landing import Landing
from migration.protocol.messages import Blocks, Message
from migration.protocol.peer import Peer, Sender
from policies.types import InstanceId, RequestId

log = logging.getLogger(__name__)


class LlumletAgent:
    """Runs a llumlet beside its engine, in the engine's event loop. Implements `EngineListener`.

    `clock` gives wall seconds; `speed` is how many fleet seconds pass in one. The control port is
    always TCP; `transport` is how this llumlet reaches others (TCP unless given).
    """

    def __init__(
        self,
        hooks: EngineHooks,
        config: MigrationConfig,
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
        instance_id: str = "instance",
        *,
        speed: float = 1.0,
        transport: Transport | None = None,
    ) -> None:
        self._hooks = hooks
        self._config = config
        self._clock = clock
        self.llumlet = Llumlet(
            hooks,
            config,
            InstanceId(instance_id),
            clock,
            speed=speed,
            first_epoch=time.time_ns() // 1000,
        )
        self._transport = transport or TcpTransport(secret, config)
        self._pool = LinkPool(self._transport, self._from_peer, self._peer_lost)
        self._fleet = FleetPort(self.llumlet, config, speed, self._pump)
        self._shaper = Shaper(config, clock, speed)
        roles = {
            "control": self._fleet.serve,
            "peer": lambda wire: serve_peer(wire, self, config),
            "bulk": lambda wire: serve_bulk(wire, self, config),
        }
        self._listener = Listener(secret, config, roles)
        self._answers: dict[Sender, Deliver] = {}
        self._sender_numbers = count()
        self._timers: dict[TimerKey, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen for the fleet and other llumlets; return the port. Raises OSError."""
        return self._listener.start(host, port)

    async def close(self) -> None:
        """Undo what is under way, tell the peers, and close everything."""
        self.llumlet.stop("shutting down")
        self._pump()
        self._pool.close()
        await self._listener.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for handle in self._timers.values():
            handle.cancel()

    def stats(self) -> dict[str, dict[str, int]]:
        """Count frames refused by reason, migrations by role and outcome, and late messages."""
        return {"refused": dict(self._listener.refused), **self.llumlet.stats()}

    # --- calls of the engine and its server ---

    def stepped(self) -> None:
        """See EngineListener."""
        self.llumlet.stepped()

    def detached(self, request_id: RequestId, state: RequestState) -> None:
        """See EngineListener."""
        self.llumlet.detached(request_id, state)
        self._pump()

    def gone(self, request_id: RequestId, why: Gone) -> None:
        """See EngineListener."""
        self.llumlet.gone(request_id, why)
        self._pump()

    def remember(self, request_id: RequestId, ended: Ended) -> None:
        """Remember the output of a request that has ended here, for a client that reconnects."""
        self.llumlet.memory.note(request_id, ended)

    def request_arrived(self, request_id: RequestId) -> None:
        """Note a newly arrived request, for the next report to the fleet."""
        self._fleet.request_arrived(request_id)

    # --- calls of other llumlets (Inbox) ---

    def opened(self, answer: Deliver) -> Sender:
        """See Inbox."""
        sender = next(self._sender_numbers)
        self._answers[sender] = answer
        return sender

    def closed(self, sender: Sender) -> None:
        """See Inbox."""
        del self._answers[sender]
        self.llumlet.sender_lost(sender)
        self._pump()

    def received(self, message: Message, sender: Sender) -> None:
        """See Inbox."""
        self.llumlet.received(message, sender)
        self._pump()

    def block_bytes(self) -> int:
        """See Inbox."""
        return self._hooks.layout().block_bytes

    async def room(self, blocks: Blocks) -> None:
        """See Inbox."""
        room = self._hooks.room(blocks.migration_id, blocks.first_block, blocks.n_blocks)
        if room is not None:
            await room

    def landing(self, blocks: Blocks) -> Landing:
        """See Inbox."""
        landing = self.llumlet.landing(blocks)
        self._pump()
        return landing

    def views(self, landing: Landing) -> list[memoryview]:
        """See Inbox."""
        return self.llumlet.arrivals.views(landing)

    def landed(self, landing: Landing, *, intact: bool) -> None:
        """See Inbox."""
        self.llumlet.landed(landing, intact=intact)
        self._pump()

    # --- carrying out effects ---

    def _pump(self) -> None:
        for effect in self.llumlet.take_effects():
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Say(peer, message):
                self._pool.send(peer, message)
            case Answer(sender, message):
                answer = self._answers.get(sender)
                if answer is not None:
                    answer(message)
            case AskPeer():
                self._start(self._ask(effect))
            case Ship():
                self._start(self._ship(effect))
            case Arm(key, name, seconds):
                self._disarm(key)
                loop = asyncio.get_running_loop()
                self._timers[key] = loop.call_later(seconds, self._fire, key, name)
            case Disarm(key):
                self._disarm(key)
            case Announce(event):
                log.info("event=migration %s", event)
                self._fleet.publish(event)

    def _disarm(self, key: TimerKey) -> None:
        handle = self._timers.pop(key, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, key: TimerKey, name: str) -> None:
        del self._timers[key]
        self.llumlet.timer_fired(key, name)
        self._pump()

    def _from_peer(self, message: Message) -> None:
        self.llumlet.received(message, None)
        self._pump()

    def _peer_lost(self, peer: Peer) -> None:
        self.llumlet.peer_lost(peer)
        self._pump()

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listener.refused["internal_error"] += 1
            log.error("event=task_failed", exc_info=error)

    async def _ship(self, ship: Ship) -> None:
        """Send a stage; if the link fails, the pool tells all of its users."""
        departures, layout = self.llumlet.departures, self._hooks.layout()
        try:
            link = await self._pool.link(ship.peer)
            for first, n in frames(ship, self._shaper.frame_blocks(layout)):
                request_id = departures.moves(ship)
                if request_id is None:
                    return
                staged = self._hooks.stage(request_id, first, n)
                if staged is not None and not await staged:
                    return
                views = departures.views(ship, first, n)
                if views is None:
                    return
                value = await checksum(views)
                blocks = Blocks(ship.migration_id, ship.epoch, ship.stage, first, n, value)
                if departures.views(ship, first, n) is None:
                    return
                sent_at_s = self._shaper.book(n * layout.block_tokens)
                began_s = self._clock()
                await link.send_blocks(blocks, views)
                took_s = self._clock() - began_s
                if departures.moves(ship) is not None:  # else it was all unstaged already
                    self._hooks.unstage(request_id, first, n)
                await self._shaper.wait_until(sent_at_s)
                self.llumlet.frame_sent(ship, n, n * layout.block_bytes, took_s)
                self._pump()
        except LinkError as error:
            log.debug("event=ship_failed migration_id=%s error=%s", ship.migration_id, error)

    async def _ask(self, effect: AskPeer) -> None:
        """Ask over a separate connection; without an answer in time, the machine's timer fires."""
        ended: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()

        def end(message: Message | None = None) -> None:
            if not ended.done():
                ended.set_result(message)

        link: Link | None = None
        try:
            async with asyncio.timeout(self._config.query_timeout_s):
                link = await self._transport.connect(effect.peer, end, end)
                link.send(effect.query)
                answer = await ended
        except TimeoutError:
            return
        except LinkError:
            answer = None
        finally:
            if link is not None:
                link.close()
        if answer is None:
            self.llumlet.ask_failed(effect.query)
            self._pump()
        else:
            self._from_peer(answer)
