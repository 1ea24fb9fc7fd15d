"""Streams without pause while instances join, leave, are drained and are killed.

The fleet is emulated; 80 % of its places are taken all the time. Every token is compared with the
hash model's, and the frontend's memory and open files are looked at every second. First, tiny
requests fill up what is bounded (the explanations of the last 4,096 requests); memory is judged
after a warm-up on top of that.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
import uvloop

from harness import Bar, Stream, finish, prompt_ids
from llumnix.emulator.model.answer import expected_output
from llumnix.processes.frontend_process import COMMAND, START_TIMEOUT_S
from llumnix.processes.launch import Emulator, launch_emulators, start_child, stop_process

INSTANCES = 4
PLACES = 12
SHARE = 0.8
EVERY_S = 20.0
EMULATED = [f"--max-num-seqs={PLACES}", "--set=migration.cooldown_s=0"]
PATIENCE_S = 60.0
FILL, FILL_AT_ONCE = 4500, 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a soak takes, and what it must hold to. Times are seconds."""

    duration_s: float
    warm_up_s: float
    every_s: float = EVERY_S
    rss_mb_per_min: float | None = None
    fill: int = FILL


def plan_of(args: argparse.Namespace) -> Plan:
    """A run of three minutes is still warming up when it ends: it notices gross leaks only."""
    if args.quick:
        return Plan(25.0, 10.0, every_s=4.0, fill=0)
    if args.minutes < 10:
        return Plan(60.0 * args.minutes, 30.0 * args.minutes, rss_mb_per_min=6.0)
    return Plan(60.0 * args.minutes, 300.0, rss_mb_per_min=0.1)


@dataclass(slots=True)
class Seen:
    """What the clients got, and what the frontend took, over time."""

    streams: int = 0
    broken: list[str] = field(default_factory=list)
    lost: int = 0
    wrong: int = 0
    tokens: int = 0
    events: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def judge(self, stream: Stream) -> None:
        """Compare a stream with what it had to be."""
        expected = expected_output(stream.prompt, stream.max_tokens)
        got = tuple(stream.token_ids)
        self.streams += 1
        self.tokens += len(got)
        if stream.error:
            self.broken.append(stream.error)
        self.lost += max(0, len(expected) - len(got))
        self.wrong += max(0, len(got) - len(expected))
        self.wrong += sum(a != b for a, b in zip(expected, got, strict=False))

    def after(self, since_s: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The samples from then on: time, memory in MB, open files."""
        return np.array([sample for sample in self.samples if sample[0] >= since_s])


class Soak:
    """A frontend over instances of our own, clients that never stop, and a troublemaker."""

    def __init__(self, session: aiohttp.ClientSession, rng: random.Random, workers: int) -> None:
        self.seen = Seen()
        self.workers = workers
        self.session, self.rng = session, rng
        self.url, self.pid = "", 0
        self.running: list[Emulator] = []
        self.names = (f"soak-{number}" for number in count())
        self.secret = secrets.token_hex(16).encode()
        self.began_s = 0.0

    async def run(self, plan: Plan) -> None:
        """Run it all, to the end of the last stream."""
        self.running = await self._launch(INSTANCES)
        members = [word for each in self.running for word in ("--instance", each.url)]
        environment = {"LLUMNIX_SECRET": self.secret.decode()}
        child = await start_child(
            "frontend",
            [*COMMAND, "--port=0", f"--workers={self.workers}", *members],
            START_TIMEOUT_S,
            Path(os.environ.get("TMPDIR", "/tmp")),
            environment,
        )
        self.url, self.pid = str(child.told["url"]), child.process.pid
        try:
            await self._until(lambda: self._up(INSTANCES), "all instances up")
            await self._fill(plan.fill)
            self.began_s = time.monotonic()
            sampling = asyncio.create_task(self._sample())
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._trouble(plan))
                for number in range(int(SHARE * INSTANCES * PLACES)):
                    tasks.create_task(self._client(plan, number))
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        finally:
            await stop_process(child.process, 10.0)
            await asyncio.gather(*(each.stop() for each in self.running))

    def at_s(self) -> float:
        """Return the time since the beginning."""
        return time.monotonic() - self.began_s

    async def _fill(self, many: int) -> None:
        """Send requests for one token each, until so many have been answered."""
        left = iter(range(many))

        async def client() -> None:
            for number in left:
                self.seen.judge(await Stream(prompt_ids(number, 8), 1).run(self.session, self.url))

        await asyncio.gather(*(client() for _ in range(FILL_AT_ONCE)))
        print(f"{many} tiny requests have been answered", file=sys.stderr)

    async def _client(self, plan: Plan, number: int) -> None:
        rng = random.Random(number)
        while self.at_s() < plan.duration_s:
            prompt = prompt_ids(rng.randrange(1 << 30), rng.randint(20, 400))
            stream = Stream(prompt, rng.randint(20, 120))
            self.seen.judge(await stream.run(self.session, self.url))

    async def _sample(self) -> None:
        while True:
            self.seen.samples.append((self.at_s(), *taken_by(self.pid)))
            await asyncio.sleep(1.0)

    async def _trouble(self, plan: Plan) -> None:
        """One event after another, each at its time and the fleet whole again in between."""
        acts: list[Callable[[], Awaitable[None]]] = [
            self._kill,
            self._drain,
            self._join,
            self._leave,
        ]
        due_s = plan.every_s
        while due_s < plan.duration_s:
            await asyncio.sleep(max(0.0, due_s - self.at_s()))
            act = acts[0]
            acts.append(acts.pop(0))
            name = act.__name__.strip("_")
            await act()
            self.seen.events[name] += 1
            print(f"{self.at_s():.0f} s: {name}, {len(self.running)} run", file=sys.stderr)
            due_s += plan.every_s

    async def _join(self) -> None:
        (new,) = await self._launch(1)
        self.running.append(new)
        await self._admin("POST", "/llumnix/instances", {"url": new.url})
        await self._until(lambda: self._up(len(self.running)), "the new instance up")

    async def _leave(self) -> None:
        gone = self.running.pop(self.rng.randrange(len(self.running)))
        await self._admin("DELETE", f"/llumnix/instances/{quote(gone.instance_id)}")
        await self._until(lambda: self._is_gone(gone), f"{gone.instance_id} empty and gone")
        await gone.stop()

    async def _kill(self) -> None:
        """Kill one and replace it, at another address."""
        dead = self.running.pop(self.rng.randrange(len(self.running)))
        os.kill(dead.process.pid, signal.SIGKILL)
        await dead.process.wait()
        await self._admin("DELETE", f"/llumnix/instances/{quote(dead.instance_id)}")
        await self._join()

    async def _drain(self) -> None:
        one = self.rng.choice(self.running)
        order = {"instance_id": one.instance_id}
        await self._admin("POST", "/llumnix/drain", {**order, "on": True})
        await self._until(lambda: self._is_empty(one), f"{one.instance_id} empty")
        await self._admin("POST", "/llumnix/drain", {**order, "on": False})

    async def _launch(self, many: int) -> list[Emulator]:
        return await launch_emulators(
            [next(self.names) for _ in range(many)], self.secret, EMULATED
        )

    async def _fleet(self) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.url}/llumnix/fleet") as answer:
            return list((await answer.json())["instances"])

    async def _up(self, many: int) -> bool:
        return bool(sum(one["state"] == "up" for one in await self._fleet()) >= many)

    async def _is_gone(self, gone: Emulator) -> bool:
        return all(one["url"] != gone.url for one in await self._fleet())

    async def _is_empty(self, one: Emulator) -> bool:
        async with self.session.get(f"{one.url}/llumnix/stats") as answer:
            stats = await answer.json()
        return bool(stats["running"] == stats["waiting"] == 0)

    async def _admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        async with self.session.request(method, f"{self.url}{path}", json=body or {}) as answer:
            text = await answer.text()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await holds():  # noqa: ASYNC110 - what is waited for signals no event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise RuntimeError(f"not within {PATIENCE_S:g} s: {what}") from None


def taken_by(pid: int) -> tuple[float, int]:
    """Return the memory in MB and the open files of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    folders = [Path(f"/proc/{each}") for each in (pid, *children)]
    pages = sum(int((each / "statm").read_text().split()[1]) for each in folders)
    files = sum(len(list((each / "fd").iterdir())) for each in folders)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files


async def measure(plan: Plan, seed: int, workers: int) -> Seen:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        soak = Soak(session, random.Random(seed), workers)
        await soak.run(plan)
    return soak.seen


def bars_of(seen: Seen, plan: Plan) -> tuple[list[Bar], dict[str, Any]]:
    """Judge a soak."""
    late = seen.after(plan.warm_up_s)
    late = late[late[:, 0] <= plan.duration_s]
    slope = float(np.polyfit(late[:, 0] / 60, late[:, 1], 1)[0])
    third = max(1, len(late) // 3)
    grown = float(np.median(late[-third:, 2]) - np.median(late[:third, 2]))
    bars = [
        Bar("streams broken", len(seen.broken), "0", not seen.broken),
        Bar("tokens lost", seen.lost, "0", seen.lost == 0),
        Bar("tokens wrong or doubled", seen.wrong, "0", seen.wrong == 0),
        Bar("more open files at the end", grown, "<= 8", grown <= 8),
    ]
    if plan.rss_mb_per_min is not None:
        most = plan.rss_mb_per_min
        bars.append(Bar("RSS after warm-up, MB/min", slope, f"<= {most:g}", slope <= most))
    figures = {
        "seconds": plan.duration_s,
        "streams": seen.streams,
        "tokens": seen.tokens,
        "events": dict(seen.events),
        "rss_mb": [round(float(late[0, 1]), 1), round(float(late[-1, 1]), 1)],
        "rss_mb_per_min": slope,
        "open_files": [int(late[:, 2].min()), int(late[:, 2].max())],
        "errors": seen.broken[:5],
    }
    return bars, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half a minute, < 60 s in all")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="frontend processes (default: 1)")
    parser.add_argument("--samples", type=Path, help="write memory and open files over time there")
    args = parser.parse_args()
    plan = plan_of(args)
    seen = uvloop.run(measure(plan, args.seed, args.workers))
    if args.samples:
        args.samples.write_text(json.dumps(seen.samples))
    bars, figures = bars_of(seen, plan)
    return finish("soak", bars, figures)


if __name__ == "__main__":
    sys.exit(main())
