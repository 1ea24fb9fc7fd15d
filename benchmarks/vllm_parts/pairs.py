"""Two real vLLM servers behind a frontend, and what their clients see: for the benchmarks."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np

from harness import Stream
from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed.servers import ServerOptions, launched_vllm
from migration.links.auth import sign_resume

BEFORE_TOKENS = 40
AFTER_TOKENS = 12
MAX_TOKENS = 2000
PATIENCE_S = 180.0
LOOK_S = 0.2
"""A polling interval too long to be a load; events carry their own times."""
FRONTEND = ("--port=0", "--policy=round-robin", "--no-migration")

Sample = dict[str, float]

_GENERATED = re.compile(r"^vllm:generation_tokens_total(?:\{.*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pair:
    """The servers behind one frontend: their addresses by the ids the fleet knows them by."""

    session: aiohttp.ClientSession
    url: str
    servers: dict[str, str]
    secret: bytes

    @property
    def first(self) -> str:
        """The address of the server that streams are moved from."""
        return next(iter(self.servers.values()))

    @property
    def second(self) -> str:
        """The address of the server that streams are moved to."""
        return list(self.servers.values())[1]

    async def up(self) -> None:
        """Wait until all servers can take part in migrations."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                rows = (await self.get("/llumnix/fleet"))["instances"]
                if sum(row["state"] == "up" for row in rows) == len(self.servers):
                    return
                await asyncio.sleep(0.1)

    async def get(self, path: str) -> Any:
        """Ask the frontend's admin API."""
        async with self.session.get(f"{self.url}{path}") as answer:
            answer.raise_for_status()
            return await answer.json()

    async def turn_to_first(self) -> None:
        """Make the frontend, which takes servers in turn, send the next request to the first."""
        for _ in range(2 * len(self.servers)):
            small = Stream([65], 1)
            await small.run(self.session, self.url)
            decided = (await self.get(f"/llumnix/explain/{small.request_id}"))["decisions"]
            if self.servers[decided[-1]["instance_id"]] != self.first:
                return
        raise AssertionError("the frontend does not take its servers in turn")

    async def generated_by_first(self) -> int:
        """Read how many tokens the first server has generated since it started.

        That tells where a stream was cut: what its client has of the source, and one token more,
        which went with the redirect and comes from the destination's replay.
        """
        async with self.session.get(f"{self.first}/metrics") as answer:
            page = await answer.text()
        return int(sum(float(value) for value in _GENERATED.findall(page)))

    async def forget_second(self) -> None:
        """Empty the second server's prefix cache, as soon as nothing runs there."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.session.post(f"{self.second}/reset_prefix_cache") as answer:
                    answer.raise_for_status()
                    if (await answer.json())["success"]:
                        return
                await asyncio.sleep(0.05)

    async def move(self, request_id: str) -> "Moved":
        """Move a request to the other server; raises TimeoutError or AssertionError otherwise."""
        after = (await self.get("/llumnix/events?after=0"))["next"]
        fleet_began_s = time.monotonic() - (await self.get("/llumnix/fleet"))["now_s"]
        ordered_s = time.monotonic()
        async with self.session.post(
            f"{self.url}/llumnix/migrate", json={"request_id": request_id}
        ) as answer:
            told = await answer.json()
            assert answer.status == 200, told
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await asyncio.sleep(LOOK_S)
                news = await self.get(f"/llumnix/events?after={after}")
                for event in news["events"]:
                    if event.get("migration_id") != told["migration_id"]:
                        continue
                    assert event["kind"] in ("migration_started", "migration_committed"), event
                    if event["kind"] == "migration_committed":
                        return Moved(ordered_s, fleet_began_s + event["at_s"], event)


@dataclass(frozen=True, slots=True)
class Moved:
    """A move: when it was ordered, when the fleet heard of its commit, and its event."""

    ordered_s: float
    committed_s: float
    event: dict[str, Any]


@asynccontextmanager
async def launched_pairs(
    options: Sequence[ServerOptions], folder: Path
) -> AsyncIterator[list[Pair]]:
    """Run two servers and a frontend for each of `options`, all servers started at once."""
    named = [
        replace(
            each,
            plugin_settings={**each.plugin_settings, "instance_id": f"pair{number}-{side}"},
            variables={**each.variables, "VLLM_SERVER_DEV_MODE": "1"},  # for `forget_second`
        )
        for number, each in enumerate(options)
        for side in "ab"
    ]
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=PATIENCE_S)
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        await stack.enter_async_context(session)
        servers = await stack.enter_async_context(launched_vllm(named, folder))
        pairs = []
        for number, each in enumerate(options):
            urls = [server.url for server in servers[2 * number : 2 * number + 2]]
            secret = folder / f"secret-{number}"
            secret.write_text(each.secret)
            serving = [*FRONTEND, f"--secret-file={secret}", *(f"--instance={u}" for u in urls)]
            url = await stack.enter_async_context(launched_frontend(serving, folder))
            ids = [f"pair{number}-{side}" for side in "ab"]
            pair = Pair(session, url, dict(zip(ids, urls, strict=True)), each.secret.encode())
            await pair.up()
            pairs.append(pair)
        yield pairs


@dataclass(frozen=True, slots=True)
class Story:
    """A prompt with a unique cache salt: only a server that has computed it finds it in a cache."""

    prompt: list[int]
    salt: str

    @classmethod
    def new(cls, tokens: int) -> "Story":
        """Generate one."""
        draws = np.random.default_rng(secrets.randbits(32))
        return cls([int(one) for one in draws.integers(32, 127, tokens)], secrets.token_hex(8))

    @property
    def extra(self) -> dict[str, Any]:
        """Return the fields its body adds to the common ones."""
        return {"cache_salt": self.salt, "temperature": 0}


class Cached:
    """Streams of set lengths whose prompts only the pair's first server has computed."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._stories: dict[int, Story] = {}

    async def story(self, context_tokens: int) -> Story:
        """Return a prompt that is this context after BEFORE_TOKENS; the second server is cold."""
        story = self._stories.get(context_tokens)
        if story is None:
            story = self._stories[context_tokens] = Story.new(context_tokens - BEFORE_TOKENS)
            first = Stream(story.prompt, 1)
            await first.run(self._pair.session, self._pair.first, story.extra)
            assert not first.error, first.error
        await self._pair.forget_second()
        return story


async def moved(cached: Cached, pair: Pair, context_tokens: int) -> Sample:
    """Move a running stream of this context; return what its client saw, in ms.

    `gap`, `pause` and `downtime` are those of the switch, `still` the same just before the order,
    `copying` the longest wait for a token between the two.
    """
    story = await cached.story(context_tokens)
    await pair.turn_to_first()
    made_before = await pair.generated_by_first()
    stream = Stream(story.prompt, MAX_TOKENS)
    running = asyncio.create_task(stream.run(pair.session, pair.url, story.extra))
    try:
        await until(lambda: len(stream.token_ids) >= BEFORE_TOKENS or running.done())
        move = await pair.move(stream.request_id)
        reached = len(stream.token_ids) + AFTER_TOKENS
        await until(lambda: len(stream.token_ids) >= reached or running.done())
    finally:
        await end(running)
    assert not stream.error, stream.error
    switch = await pair.generated_by_first() - made_before
    times_s = stream.times_s
    before_s = [one for one in times_s[2:] if one < move.ordered_s]
    normal_s = float(median(np.diff(before_s)))
    copying_s = times_s[len(before_s) + 2 : switch - 1]
    return {
        **waits(times_s[switch - 2 : switch + 1], normal_s),
        "still_ms": waits(before_s[-3:], normal_s)["gap_ms"],
        "copying_ms": float(np.max(np.diff([before_s[-1], *copying_s]), initial=0)) * 1e3,
        "took_ms": (move.committed_s - move.ordered_s) * 1e3,
        "stages": move.event["stages"],
    }


def waits(times_s: Sequence[float], normal_s: float) -> Sample:
    """Summarise how long a client waited at worst.

    `pause`: for one token. `gap`: for two in a row, less one normal interval, if that is longer.
    (The destination's first token is one the source computed: a pause may be cut in two by it.)
    """
    times = np.array(times_s)
    pause_s = float(np.max(np.diff(times)))
    pair_s = float(np.max(times[2:] - times[:-2]))
    gap_s = max(pause_s, pair_s - normal_s)
    return {
        "gap_ms": gap_s * 1e3,
        "pause_ms": pause_s * 1e3,
        "downtime_ms": max(0.0, gap_s - normal_s) * 1e3,
        "normal_ms": normal_s * 1e3,
    }


async def recomputed(cached: Cached, pair: Pair, context_tokens: int) -> Sample:
    """Cut a stream off and recompute it at the other server; return its client's wait, in ms."""
    story = await cached.story(context_tokens)
    start = Stream(story.prompt, BEFORE_TOKENS)
    await start.run(pair.session, pair.first, story.extra)
    assert not start.error, start.error
    fields = {
        "request_id": start.request_id,
        "migration_id": None,
        "output_token_ids": start.token_ids,
        "issued_at": time.time(),
        "early": False,
    }
    tag = {"request_id": start.request_id, "class_index": 0}
    params = {"llumnix": sign_resume(pair.secret, fields), "llumnix_request": tag}
    again = Stream(start.prompt, BEFORE_TOKENS + 4)
    posted_s = time.monotonic()
    await again.run(pair.session, pair.second, {**story.extra, "kv_transfer_params": params})
    assert again.token_ids[:BEFORE_TOKENS] == start.token_ids, again.error
    gap_s = again.times_s[BEFORE_TOKENS] - posted_s
    normal_s = float(median(start.intervals_s(2)))
    return {
        "gap_ms": gap_s * 1e3,
        "downtime_ms": (gap_s - normal_s) * 1e3,
        "normal_ms": normal_s * 1e3,
    }


async def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait for an event in this process."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("waited in vain")
        await asyncio.sleep(0.002)


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Hang up, and give the servers a moment to notice."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.1)
