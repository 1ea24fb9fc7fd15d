"""Moving requests by hand while they run, and following each move's events."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from llumnix.admin.schema import EventRecord, FleetStatus, MigrationStatus, News
from llumnix.instances.instance import InstanceKind, InstanceState
from testbed.recorder import Recording, record

_POLL_S = 0.02
_PAUSE_S = 0.1
"""Pause after a failed move; where memory is short, most fail for a while."""
_REQUEST_TIMEOUT_S = 180.0
_ENDS = {"migration_committed", "migration_aborted", "migration_refused"}


@dataclass(frozen=True, slots=True)
class Cut:
    """When to order a move: after so many letters of a stream, or so long after the start."""

    letters: int = 0
    after_s: float = 0.0


@dataclass(slots=True)
class Ride:
    """One request served through a frontend, and its moves.

    `moves` are the events of migrations that brought KV, each with how many letters of a stream had
    come when it was ordered; `failures` are the reasons of the others.
    """

    request_id: str
    recording: Recording
    seconds: float
    moves: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class AdminSide:
    """A frontend's admin side. Use it as an async context manager: it follows the events."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url
        self._ended: dict[str, EventRecord] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name="events")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def get(self, path: str) -> Any:
        """Ask the admin API."""
        async with self.session.get(f"{self.url}{path}") as answer:
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Send an order."""
        async with self.session.post(f"{self.url}{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def up(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many instances are up and can take part in migrations."""
        async with asyncio.timeout(timeout_s):
            while True:
                fleet = FleetStatus.from_json(await self.get("/llumnix/fleet"))
                ready = [
                    each.state == InstanceState.UP and each.kind == InstanceKind.PLUGGED
                    for each in fleet.instances
                ]
                if sum(ready) >= count:
                    return
                await asyncio.sleep(0.1)

    async def ride(self, path: str, body: dict[str, Any], cuts: Sequence[Cut] = ()) -> Ride:
        """Post a request, order a move at each cut, and take in its answer."""
        request_id = f"ride-{secrets.token_hex(6)}"
        progress = _Progress()
        ride = Ride(request_id, Recording(), 0.0)
        moving = asyncio.create_task(self._move(ride, cuts, progress))
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                ride.recording = await record(
                    self.session, f"{self.url}{path}", body, request_id, progress.at
                )
        except TimeoutError:
            ride.recording.error = f"no end within {_REQUEST_TIMEOUT_S:g} s"
        ride.seconds = time.monotonic() - began_s
        # A commit is reported after the redirect: wait for the end of what was ordered.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                progress.over()
                await moving
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        return ride

    async def _move(self, ride: Ride, cuts: Sequence[Cut], progress: "_Progress") -> None:
        for cut in cuts:
            if not await progress.reached(cut):
                return
            while not progress.ended:
                letters = progress.letters
                event = await self._order(ride, progress)
                if event is None:
                    break
                if event.kind == "migration_committed" and event.more.get("copied_tokens"):
                    ride.moves.append({**event.to_json(), "ordered_letters": letters})
                    break
                ride.failures.append(event.text.partition("(")[2].rstrip(")") or event.text)
                await asyncio.sleep(_PAUSE_S)

    async def _order(self, ride: Ride, progress: "_Progress") -> EventRecord | None:
        """Order one move and wait for its end; None when the request ended before."""
        while not progress.ended:
            body = {"request_id": ride.request_id}
            status, answer = await self.post("/llumnix/migrate", body)
            if status == 200:
                return await self._end_of(MigrationStatus.from_json(answer).migration_id)
            why = str(answer["error"]["message"]).replace(ride.request_id, "REQUEST")
            ride.failures.append(f"not ordered: {why}")
            await asyncio.sleep(_POLL_S)
        return None

    async def _end_of(self, migration_id: str) -> EventRecord:
        while migration_id not in self._ended:
            self._news.clear()
            await self._news.wait()
        return self._ended.pop(migration_id)

    async def _follow(self) -> None:
        after = 0
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                news = News.from_json(await self.get(f"/llumnix/events?after={after}"))
                after = news.next
                for event in news.events:
                    if event.kind in _ENDS:
                        self._ended[event.more["migration_id"]] = event
                        self._news.set()
            await asyncio.sleep(_POLL_S)


class _Progress:
    """How far an answer has come."""

    def __init__(self) -> None:
        self.ended = False
        self._began_s = time.monotonic()
        self.letters = 0
        self._news = asyncio.Event()

    def at(self, letters: int) -> None:
        """Note how much has arrived."""
        self.letters = letters
        self._news.set()

    def over(self) -> None:
        """Note that nothing more comes."""
        self.ended = True
        self._news.set()

    async def reached(self, cut: Cut) -> bool:
        """Wait until a cut is due; False when the answer ended before."""
        while not self.ended:
            due_in_s = self._began_s + cut.after_s - time.monotonic()
            if self.letters >= cut.letters and due_in_s <= 0:
                return True
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_in_s if due_in_s > 0 else None):
                    await self._news.wait()
        return False
