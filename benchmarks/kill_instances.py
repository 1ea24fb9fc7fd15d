"""`kill -9` of one of four instances under 40 streams, repeatedly; then a drain under load.

Each round starts a fresh emulated fleet, opens the streams, orders migrations without pause, and
kills one instance with SIGKILL at a random time. Every stream must end as if nothing had happened:
each token is compared with the hash model's.
"""

import argparse
import asyncio
import os
import random
import secrets
import signal
import sys
import time
from typing import Any

import aiohttp
import uvloop

from harness import Bar, Stream, finish, prompt_ids
from llumnix.emulator.model.answer import expected_output
from llumnix.processes.frontend_process import launched_frontend

INSTANCES = 4
STREAMS = 40
SPEED = 8.0
# A slow link keeps migrations under way for longer, so that more kills meet one.
SERVE = [
    "--port=0",
    f"--emulate={INSTANCES}",
    f"--speed={SPEED:g}",
    "--set=emulator.link_bytes_per_s=1000000000",
    "--set=migration.cooldown_s=0",
]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills, < 60 s")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="frontend processes (default: 1)")
    return parser.parse_args()


class Fleet:
    """A running frontend over emulated instances, and what a client can do with it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.url}{path}") as answer:
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> int:
        async with self.session.post(f"{self.url}{path}", json=body) as answer:
            await answer.read()
            return answer.status

    async def keep_migrating(self) -> None:
        """Order moves of random requests until cancelled, so that a kill meets some under way."""
        while True:
            listed = await self.get("/llumnix/requests")
            rows = [row for row in _rows(listed) if row.get("state") == "running"]
            for row in random.sample(rows, min(4, len(rows))):
                await self.post("/llumnix/migrate", {"request_id": row["request_id"]})
            await asyncio.sleep(0.05)


def _rows(listed: Any) -> list[dict[str, Any]]:
    return list(listed["requests"] if isinstance(listed, dict) else listed)


def open_streams(fleet: Fleet, rng: random.Random) -> list["asyncio.Task[Stream]"]:
    tasks = []
    for _ in range(STREAMS):
        prompt = prompt_ids(rng.randrange(1 << 30), rng.randint(20, 600))
        stream = Stream(prompt, rng.randint(250, 500))
        tasks.append(asyncio.create_task(stream.run(fleet.session, fleet.url)))
    return tasks


def judge(streams: list[Stream]) -> dict[str, int]:
    """Count broken streams and wrong tokens."""
    faults = {"broken": 0, "lost": 0, "doubled_or_wrong": 0}
    for stream in streams:
        expected = expected_output(stream.prompt, stream.max_tokens)
        got = tuple(stream.token_ids)
        if stream.error:
            faults["broken"] += 1
            print(f"broken: {stream.error}", file=sys.stderr)
        faults["lost"] += max(0, len(expected) - len(got))
        faults["doubled_or_wrong"] += max(0, len(got) - len(expected))
        faults["doubled_or_wrong"] += sum(a != b for a, b in zip(expected, got, strict=False))
    return faults


async def kill_round(session: aiohttp.ClientSession, rng: random.Random) -> dict[str, Any]:
    async with launched_frontend(SERVE) as url:
        fleet = Fleet(session, url)
        victims = {
            row["id"]: row["url"] for row in (await fleet.get("/llumnix/fleet"))["instances"]
        }
        name = rng.choice(sorted(victims))
        pid = (await _get(session, f"{victims[name]}/llumnix/stats"))["pid"]
        tasks = open_streams(fleet, rng)
        moving = asyncio.create_task(fleet.keep_migrating())
        await asyncio.sleep(rng.uniform(0.3, 1.2))
        during = (await fleet.get("/llumnix/fleet"))["migrations"]
        running = sum(not task.done() for task in tasks)
        os.kill(pid, signal.SIGKILL)
        streams = await asyncio.gather(*tasks)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        totals = (await fleet.get("/llumnix/fleet"))["totals"]
        leaks = await leaked(session, [url for other, url in victims.items() if other != name])
    return {
        **judge(streams),
        "with_migration_under_way": int(
            any(name in (m["source"], m["destination"]) for m in during)
        ),
        "streams_open_at_the_kill": running,
        "carried_on_elsewhere": totals["resumed"],
        "committed": totals["migrations_committed"],
        "leaked_blocks": leaks,
    }


async def leaked(session: aiohttp.ClientSession, urls: list[str]) -> int:
    """Count the blocks still taken once nothing runs, after the timeout of unclaimed requests."""
    deadline_s = time.monotonic() + 10
    while True:
        blocks = [(await _get(session, f"{url}/llumnix/stats"))["blocks"] for url in urls]
        taken = sum(one["total"] - one["free"] for one in blocks)
        if taken == 0 or time.monotonic() > deadline_s:
            return int(taken)
        await asyncio.sleep(0.2)


async def drain_round(session: aiohttp.ClientSession, rng: random.Random) -> dict[str, Any]:
    async with launched_frontend(SERVE) as url:
        fleet = Fleet(session, url)
        first = (await fleet.get("/llumnix/fleet"))["instances"][0]
        tasks = open_streams(fleet, rng)
        await asyncio.sleep(1.0)
        ran = (await _get(session, f"{first['url']}/llumnix/stats"))["running"]
        started_s = time.monotonic()
        await fleet.post("/llumnix/drain", {"instance_id": first["id"], "on": True})
        emptied_s = None
        while emptied_s is None and time.monotonic() - started_s < 60:
            stats = await _get(session, f"{first['url']}/llumnix/stats")
            if stats["running"] == 0 and stats["waiting"] == 0:
                emptied_s = time.monotonic() - started_s
            await asyncio.sleep(0.01)
        open_then = sum(not task.done() for task in tasks)
        streams = await asyncio.gather(*tasks)
    return {
        **judge(streams),
        "ran_there": ran,
        "emptied_fleet_s": None if emptied_s is None else emptied_s * SPEED,
        "streams_open_when_empty": open_then,
    }


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        return await answer.json()


async def measure(kills: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rng = random.Random(seed)
    random.seed(seed)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        rounds = []
        for number in range(kills):
            rounds.append(await kill_round(session, rng))
            print(f"kill {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
        drain = await drain_round(session, rng)
        print(f"drain: {drain}", file=sys.stderr, flush=True)
    return rounds, drain


def main() -> int:
    args = arguments()
    os.environ.setdefault("LLUMNIX_SECRET", secrets.token_hex(16))
    SERVE.append(f"--workers={args.workers}")
    rounds, drain = uvloop.run(measure(3 if args.quick else args.kills, args.seed))
    total = {key: sum(one[key] for one in rounds) for key in rounds[0]}
    bars = [
        Bar(
            f"{key} in {len(rounds)} kills, {STREAMS} streams each", total[key], "0", not total[key]
        )
        for key in ("broken", "lost", "doubled_or_wrong", "leaked_blocks")
    ]
    during = total["with_migration_under_way"]
    bars += [
        Bar("kills that met a migration of the victim", during, ">= 1", during >= 1),
        Bar("broken streams in the drain", drain["broken"], "0", not drain["broken"]),
        Bar(
            "tokens lost or wrong in the drain",
            drain["lost"] + drain["doubled_or_wrong"],
            "0",
            not drain["lost"] + drain["doubled_or_wrong"],
        ),
        Bar(
            "drained instance empty after, emulated s",
            drain["emptied_fleet_s"],
            "empty while streams are open",
            drain["emptied_fleet_s"] is not None and drain["streams_open_when_empty"] > 0,
        ),
    ]
    return finish("kill_instances", bars, {"kills": total, "drain": drain})


if __name__ == "__main__":
    sys.exit(main())
