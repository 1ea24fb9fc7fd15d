"""Watch a run from outside: freeness, memory and migrations over time, from the admin API."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from llumnix.admin.schema import EventRecord, FleetStatus, InstanceStatus, MigrationStatus, News

Series = dict[str, list[tuple[float, float]]]
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
POLL_S = 0.2
"""Wall seconds between two polls."""


@dataclass(slots=True)
class RunSeries:
    """The series of a run, by instance. Times are fleet seconds after the start of the watch.

    A move is (start, end, source, destination, request id) of a committed migration.
    """

    freeness: Series = field(default_factory=dict)
    kv_tokens: Series = field(default_factory=dict)
    moves: list[tuple[float, float, str, str, str]] = field(default_factory=list)


class RunWatcher:
    """Polls a frontend from `start` to `stop`; a failed poll is left out, never an error."""

    def __init__(self, url: str, speed: float) -> None:
        self.seen = RunSeries()
        self._url = url
        self._speed = speed
        self._started: dict[str, float] = {}
        self._next_event = 0
        # The frontend stamps events on its own clock: what `now_s` was when we began.
        self._origin_s: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start polling, every `POLL_S`."""
        self._task = asyncio.create_task(self._poll(), name="watcher")

    async def stop(self) -> None:
        """Poll once more, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            await self._look(session)

    async def _poll(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            due_s = time.monotonic()
            while True:
                await self._look(session)
                due_s = max(due_s + POLL_S, time.monotonic())
                await asyncio.sleep(due_s - time.monotonic())

    async def _look(self, session: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
            answer = await _get(session, f"{self._url}/llumnix/fleet")
            fleet = FleetStatus.from_json(answer)
            if self._origin_s is None:
                self._origin_s = fleet.now_s
            self._rows(fleet.instances, fleet.now_s - self._origin_s)
            answer = await _get(session, f"{self._url}/llumnix/events?after={self._next_event}")
            news = News.from_json(answer)
            self._next_event = news.next
            for event in news.events:
                self._event(event)

    def _rows(self, instances: Sequence[InstanceStatus], at_s: float) -> None:
        for each in instances:
            for series, value in (
                (self.seen.freeness, each.freeness),
                (self.seen.kv_tokens, each.physical_tokens),
            ):
                if value is not None:
                    series.setdefault(each.instance_id, []).append((at_s, float(value)))

    def _event(self, event: EventRecord) -> None:
        assert self._origin_s is not None
        at_s = max(0.0, event.at_s - self._origin_s)
        migration_id = str(event.more.get("migration_id", ""))
        if event.kind == "migration_started":
            self._started[migration_id] = at_s
        elif event.kind == "migration_committed":
            moved = MigrationStatus.from_json(event.more)
            start_s = self._started.pop(migration_id, at_s)
            who = (moved.source, moved.destination, str(moved.request_id))
            self.seen.moves.append((start_s, at_s, *who))


async def _get(session: aiohttp.ClientSession, url: str) -> object:
    async with session.get(url) as response:
        response.raise_for_status()
        answer: object = await response.json()
        return answer
