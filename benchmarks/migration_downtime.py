"""How long a client waits for a live migration, beside stop-and-copy and recompute, in one run.

Two emulated LLaMA-7B/A10 instances at real speed, 128 KiB of real KV bytes per token over loopback
TCP. A stream of each context length is moved by hand; its client records the time of every token.
Downtime is the longest pause around the move less the usual interval of that stream
(docs/decisions/0005). Measured with the instances otherwise idle, and busy with other streams:
there a moved request also waits for its destination's current step. Stop-and-copy is the same code
with no live stage; recompute posts the request and its output so far to the other instance.
"""

import argparse
import asyncio
import os
import secrets
import sys
import time
from statistics import median
from typing import Any

import aiohttp
import uvloop

from harness import Bar, Stream, finish, prompt_ids
from llumnix.processes.frontend_process import launched_frontend
from migration.links.auth import sign_resume

CONTEXTS = (256, 512, 1024, 2048, 4096, 8192)
KV_BYTES_PER_TOKEN = 128 * 1024
BEFORE_TOKENS = 12
AFTER_TOKENS = 24
BACKGROUND_STREAMS = 2
BACKGROUND_TOKENS = (16, 1500)
"""Prompt and output of the streams each instance runs besides the moved one. Short prompts: a new
one must not stretch a step, or its prefill would be counted as the migration's downtime."""

LIVE = ("live", "live, busy")
DECODE_STEP_MS = 36.0
"""The shortest decode step of the emulated model at these batches, for what must be flat."""

Sample = dict[str, float]
Samples = dict[str, dict[int, list[Sample]]]
"""By mode and context."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two lengths, few samples, < 60 s")
    parser.add_argument("--samples", type=int, default=9, help="moves per length and mode")
    return parser.parse_args()


def serve_arguments(max_stages: int) -> list[str]:
    settings = {
        "emulator.kv_payload_bytes_per_token": KV_BYTES_PER_TOKEN,
        "emulator.kv_pretouch": "true",
        "emulator.link_bytes_per_s": 0,
        "emulator.token_budget": 2048,
        "migration.max_stages": max_stages,
        "migration.cooldown_s": 0,
        "migration.stage_timeout_s": 30,
        "migration.commit_timeout_s": 30,
    }
    flags = ["--port=0", "--emulate=2", "--speed=1", "--no-migration", "--policy=round-robin"]
    return flags + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


class Bench:
    """One fleet of two, with background streams, and ways to move a stream on it."""

    def __init__(self, session: aiohttp.ClientSession, url: str, secret: bytes) -> None:
        self.session, self.url, self.secret = session, url, secret
        self.background: list[asyncio.Task[None]] = []
        self.instances: list[dict[str, Any]] = []

    async def start(self) -> None:
        self.instances = (await self._get("/llumnix/fleet"))["instances"]

    async def make_busy(self) -> None:
        for number, row in enumerate(self.instances * BACKGROUND_STREAMS):
            self.background.append(asyncio.create_task(self._keep_busy(row["url"], number)))
        await asyncio.sleep(1.0)

    async def stop(self) -> None:
        for task in self.background:
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)

    async def moved(self, context: int, seed: int) -> Sample:
        """Move a running stream of this context; return its client's figures, in ms."""
        stream = Stream(prompt_ids(seed, context - BEFORE_TOKENS), BEFORE_TOKENS + 120)
        running = asyncio.create_task(stream.run(self.session, self.url))
        await _until(lambda: len(stream.token_ids) >= BEFORE_TOKENS or running.done())
        before = len(stream.token_ids)
        events = await self._get("/llumnix/events?after=0")
        ordered_s = time.monotonic()
        order = {"request_id": stream.request_id}
        async with self.session.post(f"{self.url}/llumnix/migrate", json=order) as answer:
            answer.raise_for_status()
            migration_id = (await answer.json())["migration_id"]
        moved_at = await self._committed(migration_id, events["next"])
        reached = len(stream.token_ids) + AFTER_TOKENS
        await _until(lambda: len(stream.token_ids) >= reached or running.done())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not stream.error, stream.error
        normal_ms = median(stream.intervals_s()[:before]) * 1e3
        pauses = [
            later - sooner
            for sooner, later in zip(stream.times_s, stream.times_s[1:], strict=False)
            if later > ordered_s
        ]
        gap_ms = max(pauses) * 1e3
        return {
            "gap_ms": gap_ms,
            "downtime_ms": max(0.0, gap_ms - normal_ms),
            "normal_ms": normal_ms,
            "took_ms": (moved_at - ordered_s) * 1e3,
        }

    async def recomputed(self, context: int, seed: int) -> Sample:
        """Resume a request by recompute at the other instance; return its client's wait."""
        first, second = (row["url"] for row in self.instances)
        start = await Stream(prompt_ids(seed, context - BEFORE_TOKENS), BEFORE_TOKENS).run(
            self.session, first
        )
        assert not start.error, start.error
        fields = {
            "request_id": start.request_id,
            "migration_id": None,
            "output_token_ids": start.token_ids,
            "issued_at": time.time(),
            "early": False,
        }
        extra = {"kv_transfer_params": {"llumnix": sign_resume(self.secret, fields)}}
        again = Stream(start.prompt, BEFORE_TOKENS + 4)
        posted_s = time.monotonic()
        await again.run(self.session, second, extra)
        assert again.token_ids[:BEFORE_TOKENS] == start.token_ids, again.error
        gap_ms = (again.times_s[BEFORE_TOKENS] - posted_s) * 1e3
        normal_ms = median(start.intervals_s()) * 1e3
        return {"gap_ms": gap_ms, "downtime_ms": gap_ms - normal_ms, "normal_ms": normal_ms}

    async def _committed(self, migration_id: str, after: int) -> float:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            news = await self._get(f"/llumnix/events?after={after}")
            for event in news["events"]:
                if event.get("migration_id") == migration_id:
                    if event["kind"] == "migration_committed":
                        return time.monotonic()
                    assert event["kind"] == "migration_started", event
            await asyncio.sleep(0.02)
        raise TimeoutError("the migration did not end")

    async def _keep_busy(self, url: str, seed: int) -> None:
        while True:
            stream = await Stream(prompt_ids(seed, BACKGROUND_TOKENS[0]), BACKGROUND_TOKENS[1]).run(
                self.session, url
            )
            await asyncio.sleep(0.2 if stream.error else 0)

    async def _get(self, path: str) -> dict[str, Any]:
        async with self.session.get(f"{self.url}{path}") as answer:
            answer.raise_for_status()
            return dict(await answer.json())


async def _until(condition: Any, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("waited in vain")
        await asyncio.sleep(0.002)


async def measure(contexts: tuple[int, ...], samples: int, slow_samples: int) -> Samples:
    secret = os.environ["LLUMNIX_SECRET"].encode()
    got: Samples = {}

    async def repeat(mode: str, times: int, measured: Any) -> None:
        for number in range(times):
            for context in contexts:
                sample = await measured(context, number)
                got.setdefault(mode, {}).setdefault(context, []).append(sample)
                _say(mode, context, sample)

    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with launched_frontend(serve_arguments(max_stages=8)) as url:
            bench = Bench(session, url, secret)
            await bench.start()
            await bench.moved(contexts[0], 999)  # the first finds cold caches and no links
            await repeat("live", samples, bench.moved)
            await repeat("recompute", slow_samples, bench.recomputed)
            await bench.make_busy()
            await repeat("live, busy", samples, bench.moved)
            await bench.stop()
        async with launched_frontend(serve_arguments(max_stages=0)) as url:
            bench = Bench(session, url, secret)
            await bench.start()
            await bench.moved(contexts[0], 999)
            await repeat("stop-and-copy", slow_samples, bench.moved)
    return got


def _say(mode: str, context: int, sample: Sample) -> None:
    figures = "  ".join(f"{key} {value:8.1f}" for key, value in sample.items())
    print(f"{mode:<14}{context:>6} tokens  {figures}", file=sys.stderr, flush=True)


def main() -> int:
    args = arguments()
    os.environ.setdefault("LLUMNIX_SECRET", secrets.token_hex(16))
    contexts = (256, 8192) if args.quick else CONTEXTS
    samples, slow = (2, 1) if args.quick else (args.samples, 3)
    got = uvloop.run(measure(contexts, samples, slow))
    p50 = {
        mode: {context: median(one["downtime_ms"] for one in rows) for context, rows in by.items()}
        for mode, by in got.items()
    }
    figures = {
        "downtime_p50_ms": p50,
        "gap_p50_ms": {c: median(one["gap_ms"] for one in got["live"][c]) for c in contexts},
        "decode_step_ms": _steps_ms(got["live"]),
        "live_downtime_ms": {
            mode: {c: sorted(o["downtime_ms"] for o in got[mode][c]) for c in contexts}
            for mode in LIVE
        },
        "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
        "samples": {mode: len(by[contexts[0]]) for mode, by in got.items()},
    }
    return finish("migration_downtime", judge(got, p50), figures)


def judge(got: Samples, p50: dict[str, dict[int, float]]) -> list[Bar]:
    """Hold the medians against the bars of the issue."""
    bars = []
    for mode in LIVE:
        for context, step_ms in _steps_ms(got[mode]).items():
            value = p50[mode][context]
            name = f"{mode}: downtime p50 at {context} tokens, ms"
            bar = f"<= one decode step ({step_ms:.1f} ms)"
            bars.append(Bar(name, round(value, 1), bar, value <= step_ms))
    live, longest = p50["live"], max(p50["live"])
    spread_ms, half_ms = max(live.values()) - min(live.values()), DECODE_STEP_MS / 2
    bars.append(
        Bar(
            "live: spread of p50 over all lengths, ms",
            round(spread_ms, 1),
            f"flat: <= half a step ({half_ms:.0f} ms)",
            spread_ms <= half_ms,
        )
    )
    for mode in ("stop-and-copy", "recompute"):
        ratio = p50[mode][longest] / max(live[longest], 1e-9)
        name = f"{mode} / live at {longest} tokens"
        bars.append(Bar(name, round(ratio, 1), ">= 50", ratio >= 50))
    return bars


def _steps_ms(rows: dict[int, list[Sample]]) -> dict[int, float]:
    return {context: median(one["normal_ms"] for one in some) for context, some in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
