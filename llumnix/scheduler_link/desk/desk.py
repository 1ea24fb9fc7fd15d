"""The scheduler's desk: where frontends in other processes are linked to one fleet and queue."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from llumnix.fleet.fleet import Fleet
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.request import request_id as free_among
from llumnix.scheduler_link.channel import Channel
from llumnix.scheduler_link.desk.board import Board
from llumnix.scheduler_link.desk.counted import Counted
from llumnix.scheduler_link.desk.requests import DeskRequestTable
from llumnix.scheduler_link.desk.session import Session
from llumnix.scheduler_link.desk.tolls import DeskTolls
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import VERSION, Asked, Kind
from llumnix.tasks import spawn
from policies.types import InstanceId, MigrationId, RequestId

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.7
"""How long a scheduler that has just begun waits at most for instances that frontends know to be
up: before that it would know less than they do."""
_TICK_S: Final = 0.5
_LOOK_S: Final = 0.02
_ANSWER_TIMEOUT_S: Final = 2.0


class Desk:
    """Serves frontends on behalf of a fleet, whose table of requests must be a DeskRequestTable.

    What frontends say is carried out in the order in which it arrives here, whoever says it.
    `expected` is how many of them there are, so that one which begins anew knows when all are back.
    """

    def __init__(self, fleet: Fleet, queue: HoldQueue, counted: Counted, expected: int = 1) -> None:
        assert isinstance(fleet.requests, DeskRequestTable)
        self.fleet = fleet
        self.queue = queue
        self.requests: DeskRequestTable = fleet.requests
        self.reserved: set[str] = set()
        self.joining = 0
        self.tolls = DeskTolls(time.monotonic)
        self.counted = counted
        self._board = Board(fleet.instances)
        self._sessions: dict[Channel, Session] = {}
        self.settled = asyncio.Event()
        self._expected = expected
        self._wanted_up: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        fleet.mover.book.destinations.told = self._ordered

    def start(self) -> None:
        """Look after the frontends from now on."""
        self.spawn(self._settle())
        self.spawn(self._tick())

    def make_channel(self) -> Channel:
        """Return the protocol of a new connection."""
        return Channel(self._received, self._opened, self._lost)

    async def close(self) -> None:
        """Let go of all frontends."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in list(self._sessions):
            channel.close("the scheduler is closing")

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something for as long as the desk is open."""
        task = spawn(work, "desk")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell_all(self, message: Message) -> None:
        """Send a message to every frontend."""
        for session in self._sessions.values():
            if session.welcomed:
                session.post(message)

    def tell_changes(self, *, look: bool = False) -> None:
        """Tell all frontends what has changed about instances; see `Board.changes`."""
        changed, gone = self._board.changes(look=look)
        if changed or gone:
            self.tell_all([Kind.TABLE, changed, gone, False])

    def free_id(self, wanted: str) -> str:
        """Return an id that no request has, this one if possible."""
        given = free_among(wanted, self.requests.active)
        return free_among(given, dict.fromkeys(self.reserved))

    def destination(self, migration_id: MigrationId) -> InstanceId | None:
        """Return where a migration goes."""
        return self.fleet.mover.book.destination_of(migration_id)

    def on_its_way(self, request_id: RequestId, instance_id: InstanceId, tokens: int) -> None:
        """Note a request that a scheduler before this one, or none, has sent to an instance."""
        self.fleet.scheduler.sent(request_id, instance_id, tokens, self.fleet.now_s())

    def hello(
        self, session: Session, up: frozenset[str], keepsake: Mapping[str, Any] | None
    ) -> None:
        """Take on a frontend, as soon as all is known here that it knows itself."""
        self.counted.came(session.name, keepsake)
        self._wanted_up |= up
        if self.settled.is_set() or not up:
            self._welcome(session)

    async def refresh(self, *, tokens: bool = False, figures: bool = False) -> None:
        """Ask the frontends for what they count themselves."""
        sessions = [each for each in self._sessions.values() if each.welcomed]
        await asyncio.gather(*(self._ask(each, tokens, figures) for each in sessions))

    async def refresh_able(self) -> None:
        """Ask the frontends which requests on servers without the plugin could be handed over."""
        bare = [each.id for each in self.fleet.instances.without_plugin()]
        if not bare:
            return

        async def ask(session: Session) -> None:
            try:
                able = await session.channel.ask(Asked.ABLE, bare, _ANSWER_TIMEOUT_S)
            except OSError:
                return
            session.received([Kind.ABLE, able])

        await asyncio.gather(*(ask(each) for each in self._sessions.values() if each.welcomed))

    async def _ask(self, session: Session, tokens: bool, figures: bool) -> None:
        channel = session.channel
        try:
            if figures:
                told = await channel.ask(Asked.FIGURES, [], _ANSWER_TIMEOUT_S)
                session.figures = told
                self.counted.told(session.name, told)
            if tokens:
                counts = await channel.ask(Asked.TOKENS, [], _ANSWER_TIMEOUT_S)
                # Some may have ended since: what is noted of them would be kept for ever.
                open_now = self.requests.active.keys() & counts.keys()
                self.requests.tokens.update({each: counts[each] for each in open_now})
        except OSError:
            log.info("frontend_silent name=%s", session.name)

    def keep(self) -> None:
        """Give the frontends what must outlive this process, before it is told to anyone."""
        keepsake = self.counted.keepsake()
        for channel, session in self._sessions.items():
            if session.welcomed:
                channel.post([Kind.KEEPSAKE, keepsake])
                channel.flush()

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_S
        while loop.time() < until:
            await asyncio.sleep(_LOOK_S)
            known = sum(bool(each.name) for each in self._sessions.values())
            if known >= self._expected and not self._lacks():
                break
        self.settled.set()
        for session in list(self._sessions.values()):
            if session.name and not session.welcomed:
                self._welcome(session)

    def _lacks(self) -> set[str]:
        return self._wanted_up - {each.id for each in self.fleet.instances.up()}

    def _welcome(self, session: Session) -> None:
        self.tell_changes()
        book = self.fleet.mover.book.destinations
        session.post([Kind.TABLE, self._board.whole(), [], True])
        session.post([Kind.ORDERED, book.all()])
        session.post(
            [Kind.WELCOME, VERSION, {"now_s": self.fleet.now_s(), "monotonic_s": time.monotonic()}]
        )
        session.welcomed = True
        session.channel.prelude = self._prelude
        log.info("frontend_linked name=%s", session.name)

    def _prelude(self) -> list[Message]:
        """Whatever else is said, frontends are to know the instances as they are."""
        changed, gone = self._board.changes()
        if changed or gone:
            self.tell_all([Kind.TABLE, changed, gone, False])
        return []

    async def _tick(self) -> None:
        moved: dict[str, float] = {}
        while True:
            await asyncio.sleep(_TICK_S)
            self.tell_changes(look=True)
            steps = {each.url: each.fitness.moved_at_s for each in self.fleet.instances}
            news = {url: at_s for url, at_s in steps.items() if moved.get(url) != at_s}
            moved = steps
            self.tell_all([Kind.MOVED, news])
            for channel in list(self._sessions):
                channel.check_silence()

    def _ordered(self, migration_id: MigrationId, destination: InstanceId) -> None:
        self.tell_all([Kind.ORDERED, {migration_id: destination}])

    def _opened(self, channel: Channel) -> None:
        self._sessions[channel] = Session(self, channel)

    def _received(self, channel: Channel, message: Message) -> None:
        session = self._sessions.get(channel)
        if session is not None:
            session.received(message)

    def _lost(self, channel: Channel, why: str) -> None:
        session = self._sessions.pop(channel, None)
        if session is None:
            return
        session.gone()
        if session.name:
            self.counted.left(session.name)
            log.info("frontend_gone name=%s reason=%s", session.name, why)
