"""The fleet's side of the control port: orders in, reports and events out."""

import asyncio
from collections.abc import Callable

from migration.config import MigrationConfig
from migration.errors import LinkError, ProtocolError
from migration.links import frames
from migration.links.sockets import Wire
from migration.llumlet import fleet_messages as orders
from migration.llumlet.fleet_messages import (
    Drain,
    MigrateOut,
    MigrationEvent,
    Recall,
    Recalled,
    Report,
    StepReport,
    Subscribe,
    SubscribeSteps,
)
from migration.llumlet.llumlet import Llumlet
from policies.types import RequestId

MIN_INTERVAL_S = 0.005
MAX_INTERVAL_S = 3600.0
MAX_IDS = 8192
"""Request ids in one report; the rest goes into the next."""


class Session:
    """One connection from the fleet: what it subscribed to, and what it has not been sent yet."""

    def __init__(self, wire: Wire, config: MigrationConfig) -> None:
        self.outbox = frames.Outbox(wire, config.stage_timeout_s, lambda: None)
        self.new_ids: list[RequestId] = []
        self.with_steps = False
        self.reporting: asyncio.Task[None] | None = None

    def post(self, news: orders.News) -> None:
        """Send a message to the fleet."""
        self.outbox.post(frames.frame_head(orders.encode(news)))


class FleetPort:
    """Carries out the fleet's orders and keeps it informed.

    `pump` is called after every order, to carry out the llumlet's effects. Intervals are fleet
    seconds, of which `speed` pass in a wall second.
    """

    def __init__(
        self, llumlet: Llumlet, config: MigrationConfig, speed: float, pump: Callable[[], None]
    ) -> None:
        self._llumlet = llumlet
        self._config = config
        self._speed = speed
        self._pump = pump
        self._sessions: set[Session] = set()

    async def serve(self, wire: Wire) -> None:
        """Take orders until the connection ends. Raises LinkError and ProtocolError."""
        session = Session(wire, self._config)
        self._sessions.add(session)
        try:
            while True:
                plain, _ = await frames.read_head(
                    wire, self._config.max_header_bytes, 0, self._config.stage_timeout_s
                )
                self._obey(session, wire, orders.decode(plain))
        finally:
            self._sessions.discard(session)
            if session.reporting is not None:
                session.reporting.cancel()

    def publish(self, event: MigrationEvent) -> None:
        """Tell every subscriber of a migration."""
        for session in self._sessions:
            session.post(event)

    def request_arrived(self, request_id: RequestId) -> None:
        """Note a new request, for the next report."""
        for session in self._sessions:
            if session.reporting is not None:
                session.new_ids.append(request_id)

    def _obey(self, session: Session, wire: Wire, order: orders.Order | orders.News) -> None:
        match order:
            case Subscribe(interval_s) | SubscribeSteps(interval_s):
                session.with_steps = isinstance(order, SubscribeSteps)
                self._subscribe(session, wire, interval_s)
            case MigrateOut():
                self._llumlet.order(order)
                self._pump()
            case Drain(on):
                self._llumlet.drain(on)
                self._pump()
            case Recall(call, request_id, owner):
                state, ids = self._llumlet.recall(request_id, owner)
                session.post(Recalled(call, state, ids))
            case _:
                raise ProtocolError("wrong_role", type(order).__name__)

    def _subscribe(self, session: Session, wire: Wire, interval_s: float) -> None:
        if not 0 < interval_s <= MAX_INTERVAL_S:
            raise ProtocolError("wrong_size", f"an interval of {interval_s} s")
        if session.reporting is not None:
            session.reporting.cancel()
        else:
            present = self._llumlet.host.hooks.requests()
            session.new_ids = [view.request_id for view in present]
        wall_s = max(MIN_INTERVAL_S, interval_s / self._speed)
        loop = asyncio.get_running_loop()
        session.reporting = loop.create_task(self._report(session, wire, wall_s))

    async def _report(self, session: Session, wire: Wire, wall_s: float) -> None:
        try:
            while not wire.closed:
                session.post(self._next_report(session))
                self._llumlet.bounce_queued()
                self._pump()
                await asyncio.sleep(wall_s)
        except (LinkError, ProtocolError):
            wire.close()

    def _next_report(self, session: Session) -> Report:
        new = tuple(session.new_ids[:MAX_IDS])
        del session.new_ids[:MAX_IDS]
        load = self._llumlet.load()
        if session.with_steps:
            return StepReport(load, new, self._llumlet.host.hooks.steps_done())
        return Report(load, new)
