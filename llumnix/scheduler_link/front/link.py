"""A frontend's connection to its scheduler: made again when it breaks, and what comes over it."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Instance
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.channel import SILENCE_S, Channel
from llumnix.scheduler_link.figures import Keepsake, figures_of
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.front.fleet import FarFleet
from llumnix.scheduler_link.front.mirror import Mirror
from llumnix.scheduler_link.front.queue import FarQueue
from llumnix.scheduler_link.front.times import Times
from llumnix.scheduler_link.front.tolls import FarTolls
from llumnix.scheduler_link.messages import VERSION, Asked, Kind
from llumnix.tasks import spawn
from policies.types import InstanceId, MigrationId, RequestId

log = logging.getLogger(__name__)

RECONNECT_S: Final = 0.1
TICK_S: Final = 0.5
ANSWER_TIMEOUT_S: Final = 5.0

Connect = Callable[[Callable[[], Channel]], Awaitable[object]]
"""Connects a channel, made by its argument, to the scheduler; raises OSError if it cannot."""


@dataclass(frozen=True, slots=True)
class Dial:
    """How a frontend reaches its scheduler over a unix socket."""

    path: str

    async def __call__(self, make: Callable[[], Channel]) -> object:
        """Connect. Raises OSError."""
        return await asyncio.get_running_loop().create_unix_connection(make, self.path)


class FrontLink:
    """Keeps a frontend linked to its scheduler; `fleet` and `queue` are what its requests use.

    `name` says who it is in logs. `epoch_s` is when the fleet's clock began.
    `afar`: the scheduler may be on another machine, whose clocks are others.
    """

    def __init__(
        self,
        name: str,
        dial: Connect,
        config: FleetConfig,
        n_classes: int,
        secret: bytes,
        tally: Tally,
        epoch_s: float,
        queue_timeout_s: float,
        retry_after_s: float,
        *,
        afar: bool = False,
    ) -> None:
        self.name = f"{name}-{secrets.token_hex(4)}"
        self.served = asyncio.Event()
        self.fleet = FarFleet(config, n_classes, secret, tally, epoch_s, self._post, self._asked)
        self.queue = FarQueue(
            queue_timeout_s, retry_after_s, self._post, self._stopgap, self.fleet.instances.get
        )
        self.tolls = FarTolls(self._post, self._asked)
        self._dial = dial
        self._mirror = Mirror(self.fleet.instances)
        self._channel: Channel | None = None
        self._keepsake: Keepsake | None = None
        self._lost = asyncio.Event()
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._handing: set[asyncio.Task[None]] = set()
        self._said_lost = False
        self._afar = afar
        self.trouble = ""
        """Why the scheduler could not be reached the last time that this failed."""
        self._times = Times()

    async def start(self, timeout_s: float) -> bool:
        """Link up; return whether the scheduler answered in time."""
        self._tasks = [spawn(self._keep(), "scheduler link"), spawn(self._tick(), "link tick")]
        try:
            async with asyncio.timeout(timeout_s):
                await self.served.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Break the link, and make no other."""
        self._closed = True
        for task in [*self._tasks, *self._handing]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._handing, return_exceptions=True)
        self.queue.close()
        if self._channel is not None:
            self._channel.close("this end is closing")

    async def _keep(self) -> None:
        while True:
            self._lost.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._dial(self._make)
            except (OSError, TimeoutError) as error:
                self.trouble = str(error) or "it did not answer in time"
                await asyncio.sleep(RECONNECT_S)
                continue
            await self._lost.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            channel = self._channel
            if channel is None:
                continue
            channel.check_silence()
            if not self.served.is_set():
                channel.post([Kind.FLOWED, {}])
                continue
            self.fleet.requests.tell_unsettled()
            self._post([Kind.FLOWED, self.fleet.requests.flowed()])
            able = self.fleet.able()
            if able:
                self._post([Kind.ABLE, able])

    def _make(self) -> Channel:
        return Channel(self._received, self._opened, self._broke)

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        up = [each.id for each in self.fleet.instances.up()]
        channel.post([Kind.HELLO, VERSION, self.name, up, self._keepsake])

    def _broke(self, channel: Channel, why: str) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if self.served.is_set() and not self._closed:
            self.served.clear()
            log.warning("scheduler_lost reason=%s effect=%s", why, "placing by fewest in flight")
            self._said_lost = True
            self.queue.lost()
        self._lost.set()

    def _post(self, message: Message) -> None:
        """Send a message if there is a scheduler: another one is told everything anew."""
        if self._channel is not None and self.served.is_set():
            self._channel.post(self._times.theirs(message))

    async def _asked(self, what: Asked, arguments: list[Any]) -> Any:
        """Ask the scheduler; None if there is no answer."""
        channel = self._channel
        if channel is None or not self.served.is_set():
            return None
        with suppress(OSError):
            return await channel.ask(what, arguments, ANSWER_TIMEOUT_S)
        return None

    def _stopgap(self, ask: Any) -> Instance | None:
        chosen = self.fleet.stopgap(ask)
        if chosen is not None:
            self.fleet.tally.dispatched("least-in-flight", chosen.id)
        return chosen

    def _received(self, channel: Channel, message: Message) -> None:
        if channel is not self._channel:
            return
        kind, *rest = message
        handler = _HANDLERS.get(kind)
        if handler is not None:  # a newer scheduler may say more
            handler(self, *rest)

    # --- what the scheduler says ---

    def _welcome(self, version: int, told: Mapping[str, Any]) -> None:
        channel = self._channel
        assert channel is not None, "it was received there"
        if version != VERSION:
            channel.close(f"it speaks version {version} of the link, we {VERSION}")
            return
        if self._afar:
            self._times.learn(told["monotonic_s"], time.monotonic())
            self.fleet.follow(told["now_s"])
        self.served.set()
        requests = self.fleet.requests
        channel.post(self._times.theirs([Kind.ADOPT, requests.whole()]))
        channel.post([Kind.VISITING, self.tolls.whole()])
        self.queue.begin()
        if self._said_lost:
            log.warning("scheduler_back requests=%d", len(requests.active))

    def _table(self, records: list[Any], gone: list[str], whole: bool) -> None:
        if whole:
            self._mirror.replace(records)
        else:
            self._mirror.change(records, gone)
        self.queue.instances_changed()

    def _placed(
        self, number: int, instance_id: str | None, refusal: Mapping[str, Any] | None
    ) -> None:
        self.queue.placed(number, instance_id, refusal)

    def _cut(self, request_id: str) -> None:
        active = self.fleet.requests.active.get(RequestId(request_id))
        if active is not None:
            active.cut()

    def _ordered(self, destinations: Mapping[str, str]) -> None:
        self.fleet.destinations.learn(destinations)

    def _migrating(self, request_id: str, migration_id: str, source: str, to: str) -> None:
        known = self.fleet.destinations
        known.ordered(MigrationId(migration_id), InstanceId(to))
        known.started(RequestId(request_id), MigrationId(migration_id))
        active = self.fleet.requests.active.get(RequestId(request_id))
        if active is not None:
            active.follower.started(MigrationId(migration_id), InstanceId(source))

    def _stays(self, request_id: str, migration_id: str) -> None:
        self.fleet.destinations.over(RequestId(request_id), MigrationId(migration_id))
        active = self.fleet.requests.active.get(RequestId(request_id))
        if active is not None:
            active.follower.ended(MigrationId(migration_id))

    def _condemned(self, digests: Mapping[bytes, float]) -> None:
        for digest, at_s in digests.items():
            self.fleet.health.suspects.told(digest, self._times.ours(at_s))

    def _moved(self, moved_at_s: dict[str, float]) -> None:
        self._mirror.moved({url: self._times.ours(at) for url, at in moved_at_s.items()})

    def _keep_figures(self, keepsake: Keepsake) -> None:
        self._keepsake = keepsake

    def _ask(self, number: int, what: str, arguments: list[Any]) -> None:
        channel = self._channel
        assert channel is not None, "it was received there"
        match what:
            case Asked.FIGURES:
                channel.answer(number, figures_of(self.fleet.tally))
            case Asked.TOKENS:
                active = self.fleet.requests.active.values()
                channel.answer(number, {each.request_id: each.tokens() for each in active})
            case Asked.ABLE:
                able: dict[str, list[str]] = {}
                for each in arguments:
                    able.update(self.fleet.able_from(each))
                channel.answer(number, able)
            case Asked.HAND_OVER:
                task = asyncio.ensure_future(self._hand_over(channel, number, *arguments))
                self._handing.add(task)
                task.add_done_callback(self._handing.discard)
            case _:
                channel.answer(number, None)

    async def _hand_over(
        self, channel: Channel, number: int, request_id: str, target_id: str
    ) -> None:
        active = self.fleet.requests.active.get(RequestId(request_id))
        target = self.fleet.instances.get(target_id)
        moved = False
        try:
            if active is not None and target is not None:
                moved = await active.follower.hand_over(target)
        finally:
            channel.answer(number, moved)


_HANDLERS: Final[Mapping[int, Callable[..., None]]] = {
    Kind.WELCOME: FrontLink._welcome,  # noqa: SLF001 - its own table
    Kind.TABLE: FrontLink._table,  # noqa: SLF001
    Kind.PLACED: FrontLink._placed,  # noqa: SLF001
    Kind.CUT: FrontLink._cut,  # noqa: SLF001
    Kind.ORDERED: FrontLink._ordered,  # noqa: SLF001
    Kind.MIGRATING: FrontLink._migrating,  # noqa: SLF001
    Kind.STAYS: FrontLink._stays,  # noqa: SLF001
    Kind.CONDEMNED: FrontLink._condemned,  # noqa: SLF001
    Kind.MOVED: FrontLink._moved,  # noqa: SLF001
    Kind.KEEPSAKE: FrontLink._keep_figures,  # noqa: SLF001
    Kind.ASK: FrontLink._ask,  # noqa: SLF001
}
