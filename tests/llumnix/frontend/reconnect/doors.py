"""Emulated engines, and frontends of their own in front of them that know nothing of each other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.main import RunningEmulator, emulator
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig
from tests.llumnix.frontend.stage import until

SECRET = b"the fleet's secret"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TOKENS = 30


@dataclass
class Door:
    """One frontend, and a client of it."""

    url: str
    fleet: Fleet
    server: FrontendServer
    session: aiohttp.ClientSession

    def post(
        self, body: dict[str, Any], request_id: str, since: str | None, *, path: str = COMPLETIONS
    ) -> Any:
        """Ask, as a client that may come back; without `since` as any other."""
        headers = {"X-Request-Id": request_id}
        if since is not None:
            headers["Last-Event-ID"] = since
        return self.session.post(path, json=body, headers=headers)

    async def whole(
        self, body: dict[str, Any], request_id: str, since: str | None, *, path: str = COMPLETIONS
    ) -> bytes:
        """Read a stream to its end."""
        async with self.post(body, request_id, since, path=path) as response:
            assert response.status == 200, await response.text()
            read: bytes = await response.read()
            return read

    async def idle(self) -> None:
        """Wait until it serves nobody."""
        await until(lambda: not self.fleet.requests.active)


@dataclass
class Doors:
    """All of it."""

    engines: list[RunningEmulator]
    doors: list[Door]

    async def quiet(self) -> None:
        """Wait until no engine computes anything."""
        for door in self.doors:
            await door.idle()
        for engine in self.engines:
            await until(partial(_computes_nothing, engine))

    def forget(self) -> None:
        """Let every engine forget the requests that have ended."""
        for engine in self.engines:
            assert engine.agent is not None
            memory = engine.agent.llumlet.memory
            memory._ended.clear()
            memory._tokens = 0


def _computes_nothing(engine: RunningEmulator) -> bool:
    return not engine.instance.requests


def completion(**more: Any) -> dict[str, Any]:
    """Give the body of a streaming completion."""
    asked = {"prompt": "tell me", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    return {**asked, **more}


def chat(**more: Any) -> dict[str, Any]:
    """Give the body of a streaming chat."""
    messages = [{"role": "user", "content": "tell me"}]
    asked = {"messages": messages, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    return {**asked, **more}


@asynccontextmanager
async def doors(
    engines: int = 2,
    frontends: int = 2,
    *,
    speed: float = 1000.0,
    secret: bytes = SECRET,
    **changes: Any,
) -> AsyncIterator[Doors]:
    """Run them for the length of a test."""
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                emulator(
                    EmulatorConfig(
                        preset="toy", model="toy", speed=speed, instance_id=f"e{number}"
                    ),
                    secret,
                    MigrationConfig(cooldown_s=0.0),
                )
            )
            for number in range(engines)
        ]
        urls = tuple(each.url for each in running)
        opened = [
            await stack.enter_async_context(_door(urls, speed, secret, changes))
            for _ in range(frontends)
        ]
        yield Doors(running, opened)


@asynccontextmanager
async def _door(
    urls: tuple[str, ...], speed: float, secret: bytes, changes: dict[str, Any]
) -> AsyncIterator[Door]:
    brain = GlobalScheduler(SchedulerConfig(dispatch=PolicySpec("round-robin"), migration=False))
    names = [known.name for known in brain.config.classes]
    tally = Tally(FleetMetrics(CollectorRegistry()), names)
    fleet = Fleet(FleetConfig(speed=speed), brain, secret, tally, FleetClock(speed))
    await fleet.start(urls)
    server = FrontendServer(FrontendConfig(port=0, shutdown_grace_s=0.2, **changes), fleet)
    url = await server.start()
    assert await fleet.wait_up(len(urls), 20.0)
    session = aiohttp.ClientSession(base_url=url, timeout=aiohttp.ClientTimeout(30))
    try:
        yield Door(url, fleet, server, session)
    finally:
        await session.close()
        await server.close()
        await fleet.close()


def events(stream: bytes) -> list[tuple[str, bytes]]:
    """Split a numbered stream into events: the id, and the event without its line."""
    found = []
    for event in stream.split(b"\n\n")[:-1]:
        line, _, rest = event.partition(b"\n")
        assert line.startswith(b"id: "), event
        found.append((line[4:].decode(), rest + b"\n\n"))
    return found


def bare(stream: bytes) -> bytes:
    """Give a numbered stream without its numbers."""
    return b"".join(event for _, event in events(stream))


def timeless(stream: bytes) -> bytes:
    """Give a stream whose chunks were all made at the same time, under the same name."""
    out = []
    for event in stream.split(b"\n\n")[:-1]:
        if event.startswith(b"data: {"):
            chunk = json.loads(event[6:])
            chunk["created"] = 0
            chunk["id"] = "x"
            event = b"data: " + json.dumps(chunk).encode()
        out.append(event)
    return b"\n\n".join(out)


async def read_some(response: aiohttp.ClientResponse, count: int) -> bytes:
    """Read so many events of a stream."""
    seen = b""
    while seen.count(b"\n\n") < count:
        more = await response.content.readany()
        assert more, "the stream has ended before"
        seen += more
    at = -1
    for _ in range(count):
        at = seen.index(b"\n\n", at + 1)
    return seen[: at + 2]


async def leave_after(
    door: Door, body: dict[str, Any], request_id: str, count: int, *, path: str
) -> bytes:
    """Ask, read so many events, and be gone."""
    response = await door.post(body, request_id, "0", path=path)
    assert response.status == 200, await response.text()
    seen = await asyncio.wait_for(read_some(response, count), 30)
    response.close()
    return seen
