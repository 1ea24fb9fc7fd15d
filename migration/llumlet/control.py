"""The fleet's client of one instance's control port."""

import asyncio
from collections.abc import Callable
from itertools import count

from migration.config import MigrationConfig
from migration.errors import LinkError, ProtocolError
from migration.links import frames
from migration.links.sockets import Wire
from migration.links.tls import dial, link_tls
from migration.llumlet import fleet_messages as orders
from migration.llumlet.fleet_messages import (
    Drain,
    MigrateOut,
    MigrationEvent,
    Order,
    Recall,
    Recalled,
    Report,
    Subscribe,
    SubscribeSteps,
)
from migration.protocol.peer import Peer
from policies.types import MigrateReason, MigrationId, RequestId


class ControlClient:
    """Talks to a llumlet: subscribes to its reports, and sends it orders.

    `on_report` and `on_event` are called from the event loop for every message; `on_closed` once,
    with the reason, when an open connection ends other than by `close`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        secret: bytes,
        on_report: Callable[[Report], None],
        on_event: Callable[[MigrationEvent], None],
        on_closed: Callable[[str], None],
        config: MigrationConfig | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._secret = secret
        self._on_report = on_report
        self._on_event = on_event
        self._on_closed: Callable[[str], None] | None = on_closed
        self._config = config or MigrationConfig()
        self._wire: Wire | None = None
        self._outbox: frames.Outbox | None = None
        self._reading: asyncio.Task[None] | None = None
        self._calls = count()
        self._recalls: dict[int, asyncio.Future[Recalled]] = {}

    async def connect(self, timeout_s: float = 5.0) -> None:
        """Connect and prove the secret. Raises LinkError, or AuthError when it is not shared."""
        try:
            tls = link_tls(self._config)
        except ValueError as error:
            raise LinkError(str(error)) from error
        wire = await dial(self._host, self._port, timeout_s, tls)
        try:
            async with asyncio.timeout(timeout_s):
                await frames.greet(wire, self._secret, "control", timeout_s)
        except TimeoutError as error:
            wire.close()
            raise LinkError("no handshake in time") from error
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        self._outbox = frames.Outbox(
            wire, self._config.stage_timeout_s, lambda: self._end("cannot send")
        )
        self._reading = asyncio.get_running_loop().create_task(self._read(wire))

    async def subscribe(self, interval_s: float, *, with_steps: bool = False) -> None:
        """Ask for a report every `interval_s` fleet seconds.

        `with_steps` is only for llumlets that announce protocol 2: their reports are `StepReport`s.
        """
        wanted = SubscribeSteps if with_steps else Subscribe
        self._order(wanted(float(interval_s)))

    async def migrate_out(
        self,
        migration_id: str,
        destination: Peer,
        request_id: str | None = None,
        max_context_tokens: int = 1 << 40,
        reason: str = MigrateReason.MANUAL,
    ) -> None:
        """Order a move; the llumlet picks a request unless one is given. Events report the rest."""
        self._order(
            MigrateOut(
                MigrationId(migration_id),
                destination,
                None if request_id is None else RequestId(request_id),
                max_context_tokens,
                reason,
            )
        )

    async def drain(self, on: bool) -> None:
        """Make the instance refuse new requests, or serve again."""
        self._order(Drain(on))

    async def recall(self, request_id: RequestId, owner: str, timeout_s: float) -> Recalled:
        """Ask what is remembered of a request; only of llumlets that announce protocol 3.

        Raises LinkError, also if there is no answer in time.
        """
        call = next(self._calls)
        answer: asyncio.Future[Recalled] = asyncio.get_running_loop().create_future()
        self._recalls[call] = answer
        try:
            self._order(Recall(call, request_id, owner))
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise LinkError("no answer in time") from None
        finally:
            del self._recalls[call]

    async def close(self) -> None:
        """Close the connection; `on_closed` is not called."""
        self._on_closed = None
        if self._wire is not None:
            self._wire.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _order(self, order: Order) -> None:
        """Post an order. Raises LinkError when there is no connection (any more)."""
        if self._wire is None or self._wire.closed or self._outbox is None:
            raise LinkError("not connected")
        self._outbox.post(frames.frame_head(orders.encode(order)))

    async def _read(self, wire: Wire) -> None:
        config = self._config
        try:
            while True:
                plain, _ = await frames.read_head(
                    wire, config.max_header_bytes, 0, config.stage_timeout_s
                )
                self._take(orders.decode(plain))
        except (LinkError, ProtocolError) as error:
            wire.close()
            self._end(str(error))

    def _take(self, news: orders.Order | orders.News) -> None:
        match news:
            case Report():
                self._on_report(news)
            case MigrationEvent():
                self._on_event(news)
            case Recalled():
                waiting = self._recalls.get(news.call)
                if waiting is not None and not waiting.done():
                    waiting.set_result(news)
            case _:
                raise ProtocolError("wrong_role", type(news).__name__)

    def _end(self, reason: str) -> None:
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(reason)
