"""`kill -9` of the scheduler's process under load, repeatedly; then of one of two workers.

`llumnix serve --workers 2` serves emulated instances, and clients stream without pause; every token
is compared with the hash model's. While the scheduler is away its workers place requests by
themselves; once it is back, it must say of every instance what the instance says of itself.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from harness import Bar, Stream, finish, prompt_ids
from llumnix.emulator.model.answer import expected_output
from llumnix.processes.launch import stop_process

CLIENTS = 32
PROBE_EVERY_S = 0.1
LIMIT_S = 60.0
SERVE = ("--port=0", "--announce", "--workers=2", "--emulate=4", "--speed=4", "--log-level=info")


class Running:
    """A running `serve` with workers, its processes and its log."""

    def __init__(self, session: aiohttp.ClientSession, url: str, pid: int, log: Path) -> None:
        self.session, self.url, self.pid, self._log = session, url, pid, log

    async def get(self, url: str) -> Any:
        async with self.session.get(url) as answer:
            return await answer.json() if answer.status == 200 else None

    async def open_requests(self) -> int:
        return len(await self.get(f"{self.url}/llumnix/requests") or ())

    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        """Return the process ids of the scheduler and the workers, in the order of birth."""
        found = []
        for each in Path("/proc").iterdir():
            try:
                command = (each / "cmdline").read_bytes()
                status = (each / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if int(status[1]) == self.pid and b"llumnix.workers" in command:
                found.append(int(each.name))
        return sorted(found)

    def scheduler(self) -> int:
        """Return the process id of the scheduler that runs now."""
        lines = [line for line in self.log().splitlines() if "process=scheduler" in line]
        restarted = [line for line in lines if "event=process_restarted" in line]
        if restarted:
            return int(restarted[-1].partition(" pid=")[2].split()[0])
        return self.children()[0]


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "llumnix", "serve", *SERVE),
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        assert process.stdout is not None
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=LIMIT_S)
        try:
            async with asyncio.timeout(LIMIT_S):
                told = json.loads(await process.stdout.readline())
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                yield Running(session, told["url"], process.pid, log)
        finally:
            await stop_process(process, LIMIT_S)


class Load:
    """Clients that stream until they are told to stop, and a probe of newcomers."""

    def __init__(self, fleet: Running, rng: random.Random) -> None:
        self.ended: list[Stream] = []
        self.waits_s: list[float] = []
        self._fleet, self._rng, self._stop = fleet, rng, asyncio.Event()
        self._tasks = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        self._tasks.append(asyncio.create_task(self._probe()))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _client(self) -> None:
        while not self._stop.is_set():
            prompt = prompt_ids(self._rng.randrange(1 << 30), self._rng.randint(20, 200))
            stream = Stream(prompt, self._rng.randint(50, 200))
            self.ended.append(await stream.run(self._fleet.session, self._fleet.url))

    async def _probe(self) -> None:
        """Ask for one token again and again: how long does it take a newcomer to be placed?"""
        while not self._stop.is_set():
            began = time.monotonic()
            stream = Stream(prompt_ids(self._rng.randrange(1 << 30), 8), 1)
            self.ended.append(await stream.run(self._fleet.session, self._fleet.url))
            self.waits_s.append(time.monotonic() - began)
            await asyncio.sleep(PROBE_EVERY_S)


def faults(streams: list[Stream]) -> dict[str, int]:
    """Count broken streams, and those with a token lost, doubled or wrong."""
    broken = [stream for stream in streams if stream.error]
    for stream in broken[:3]:
        print(f"broken: {stream.error}", file=sys.stderr)
    wrong = sum(
        tuple(stream.token_ids) != expected_output(stream.prompt, stream.max_tokens)
        for stream in streams
        if not stream.error
    )
    return {"broken": len(broken), "wrong": wrong}


async def agreed_s(fleet: Running, urls: list[str]) -> float:
    """Return how long it takes until the scheduler says what the instances say of themselves."""
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_S:
        rows, *stats = await asyncio.gather(
            fleet.get(f"{fleet.url}/llumnix/fleet"),
            *(fleet.get(f"{url}/llumnix/stats") for url in urls),
        )
        if rows and all(stats):
            said = {row["url"]: row["running"] + row["waiting"] for row in rows["instances"]}
            own = {
                url: each["running"] + each["waiting"]
                for url, each in zip(urls, stats, strict=True)
            }
            # Reports are a tenth of a second old, and requests begin and end meanwhile.
            if said.keys() == own.keys() and all(abs(said[u] - own[u]) <= 3 for u in urls):
                return time.monotonic() - began
        await asyncio.sleep(0.02)
    return LIMIT_S


async def kill_schedulers(kills: int, rng: random.Random) -> dict[str, Any]:
    async with running() as fleet:
        urls = [row["url"] for row in (await fleet.get(f"{fleet.url}/llumnix/fleet"))["instances"]]
        load = Load(fleet, rng)
        await asyncio.sleep(2.0)
        back_s, agree_s = [], []
        for number in range(1, kills + 1):
            os.kill(fleet.scheduler(), signal.SIGKILL)
            began = time.monotonic()
            while fleet.log().count("event=scheduler_back") < 2 * number:
                assert time.monotonic() - began < LIMIT_S, "the scheduler is not back"
                await asyncio.sleep(0.02)
            back_s.append(time.monotonic() - began)
            agree_s.append(await agreed_s(fleet, urls))
            print(f"kill {number}: back {back_s[-1]:.2f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(rng.uniform(1.0, 3.0))
        await load.stop()
    return {
        "streams": len(load.ended),
        **faults(load.ended),
        "back_s": back_s,
        "agreed_after_s": agree_s,
        "longest_wait_of_a_newcomer_s": max(load.waits_s),
    }


async def kill_worker(rng: random.Random) -> dict[str, Any]:
    async with running() as fleet:
        streams = [Stream(prompt_ids(rng.randrange(1 << 30), 50), 300) for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(each.run(fleet.session, fleet.url)) for each in streams]
        async with asyncio.timeout(LIMIT_S):
            while await fleet.open_requests() < CLIENTS:  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.05)
        victim = fleet.children()[1]
        own = peers(victim)
        os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*tasks)
        seen = faults(streams)
        others = [each for each in streams if each.local_port not in own]
        log = fleet.log()
    return {
        "streams": CLIENTS,
        **seen,
        "others": len(others),
        "others_broken": sum(bool(each.error) for each in others),
        "restarted": int("process=worker" in log),
    }


def peers(pid: int) -> set[int]:
    """Return the ports at the other ends of a process's TCP connections."""
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(each.readlink()))
        except OSError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].partition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in held}


async def measure(kills: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = random.Random(seed)
    schedulers = await kill_schedulers(kills, rng)
    print(f"schedulers: {schedulers}", file=sys.stderr, flush=True)
    worker = await kill_worker(rng)
    print(f"worker: {worker}", file=sys.stderr, flush=True)
    return schedulers, worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two kills, < 60 s")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.environ.setdefault("LLUMNIX_SECRET", secrets.token_hex(16))
    kills = 2 if args.quick else args.kills
    schedulers, worker = uvloop.run(measure(kills, args.seed))
    lost, wrong = schedulers["broken"], schedulers["wrong"] + worker["wrong"]
    wait_s, agree_s = schedulers["longest_wait_of_a_newcomer_s"], max(schedulers["agreed_after_s"])
    bars = [
        Bar(f"streams lost in {kills} kills of the scheduler", lost, "0", not lost),
        Bar("streams with a wrong token", wrong, "0", not wrong),
        Bar("longest wait of a newcomer, s", wait_s, "<= 1", wait_s <= 1),
        Bar("state equal to the reports' after its return, s", agree_s, "<= 2", agree_s <= 2),
        Bar(
            "streams of the other worker, when one is killed",
            worker["others"],
            "> 0, < all",
            0 < worker["others"] < CLIENTS,
        ),
        Bar("of these broken", worker["others_broken"], "0", not worker["others_broken"]),
    ]
    return finish("workers", bars, {"schedulers": schedulers, "worker": worker})


if __name__ == "__main__":
    sys.exit(main())
