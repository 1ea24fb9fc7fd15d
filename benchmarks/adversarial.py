"""Clients that mean no good: what they cost everybody else, and what is left of them.

A frontend serves a few streams with a token every ten milliseconds while it is attacked, one kind
of attack after the other. Measured are the gaps of those streams, the frontend's memory (with its
helpers') and open files, and statuses of its own making.
"""

import argparse
import asyncio
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import uvloop

from adversarial_parts.fuzz import control_fuzz
from harness import Bar, finish
from llumnix.processes.frontend_process import COMMAND
from llumnix.processes.launch import Child, start_child, stop_process

STREAMS = 10
GAP_BAR_MS = 50.0
MEMORY_BAR_MB = 1500.0
LEFT_FILES = 60
HERE = Path(__file__).parent
WATCH = json.dumps({"model": "m", "prompt": "watch", "stream": True}).encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of what; `wait_s` is when the frontend must have closed what is late."""

    counts: dict[str, int]
    settings: tuple[str, ...]
    wait_s: float
    control_frames: int


QUICK = Plan(
    {
        "nothing": 1,
        "half_heads": 500,
        "half_bodies": 200,
        "idle": 500,
        "non_readers": 20,
        "gzip_bombs": 8,
        "json_bombs": 5,
        "large_bodies": 4,
        "header_floods": 50,
        "fuzz": 3000,
    },
    ("--header-timeout-s=2", "--body-timeout-s=2", "--idle-timeout-s=4"),
    5.0,
    500,
)
FULL = Plan(
    {
        "nothing": 1,
        "half_heads": 5000,
        "half_bodies": 2000,
        "idle": 5000,
        "non_readers": 200,
        "gzip_bombs": 100,
        "json_bombs": 50,
        "large_bodies": 40,
        "header_floods": 1000,
        "fuzz": 100_000,
    },
    ("--idle-timeout-s=20",),
    35.0,
    20_000,
)


class Watch:
    """Streams of well-behaved clients, and the gaps between their tokens."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self.gaps_ms: list[float] = []
        self.ended = 0

    async def open(self) -> None:
        self._tasks = [asyncio.create_task(self._one()) for _ in range(STREAMS)]
        await asyncio.sleep(1.0)
        self.gaps_ms.clear()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(WATCH), WATCH))
        try:
            await reader.readuntil(b"data: ")
            last_s = time.monotonic()
            while await reader.read(2**16):
                now_s = time.monotonic()
                self.gaps_ms.append(1000 * (now_s - last_s))
                last_s = now_s
            self.ended += 1
        finally:
            writer.transport.abort()


class Frontend:
    """The process under attack."""

    def __init__(self, child: Child) -> None:
        self.pid = child.process.pid
        self.port = int(str(child.told["url"]).rsplit(":", 1)[1])
        self.admin_port = int(str(child.told["admin_url"]).rsplit(":", 1)[1])
        self.log = child.log_path
        self.process = child.process
        self.most_mb = 0.0
        self.most_files = 0

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def memory_mb(self) -> float:
        pages = 0
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *children):
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    async def sample(self) -> None:
        while True:
            self.most_mb = max(self.most_mb, self.memory_mb())
            self.most_files = max(self.most_files, self.files())
            await asyncio.sleep(0.2)


@asynccontextmanager
async def child(
    name: str, command: list[str], folder: Path, **environment: str
) -> AsyncIterator[Child]:
    started = await start_child(name, command, 60.0, folder, environment)
    try:
        yield started
    finally:
        await stop_process(started.process, 5.0)


async def attack(frontend: Frontend, name: str, port: int, plan: Plan) -> dict[str, Any]:
    """Run one attack beside well-behaved streams."""
    frontend.most_mb, frontend.most_files = 0.0, 0
    before_files = frontend.files()
    watch = Watch(frontend.port)
    await watch.open()
    sampling = asyncio.create_task(frontend.sample())
    began_s = time.monotonic()
    words = [sys.executable, "-m", "adversarial_parts.attacks", name, str(port)]
    words += [str(plan.counts[name]), str(plan.wait_s)]
    attacker = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, cwd=HERE
    )
    out, _ = await attacker.communicate()
    took_s = time.monotonic() - began_s
    sampling.cancel()
    gaps = sorted(watch.gaps_ms) or [float("inf")]
    await watch.close()
    await asyncio.sleep(2.0)
    seen = Counter(json.loads(out.splitlines()[-1]))
    return {
        "seen": dict(seen),
        "took_s": round(took_s, 1),
        "gap_p99_ms": round(gaps[int(0.99 * (len(gaps) - 1))], 1),
        "gap_max_ms": round(gaps[-1], 1),
        "streams_ended": watch.ended,
        "most_mb": round(frontend.most_mb),
        "most_files": frontend.most_files,
        "files_left": frontend.files() - before_files,
    }


def own_faults(seen: dict[str, int]) -> int:
    """Count statuses that blame us; a 503 with Retry-After is what a full queue says."""
    return sum(count for status, count in seen.items() if status in ("500", "502", "504"))


async def control_ports(folder: Path, n: int) -> dict[str, Any]:
    """Fuzz the control port of an emulated instance, which must go on as before."""
    secret = secrets.token_hex(16)
    command = [sys.executable, "-m", "llumnix", "emulate", "--exit-with-parent"]
    async with child("instance", command, folder, LLUMNIX_SECRET=secret) as instance:
        port = int(str(instance.told["control_port"]))
        seen = await control_fuzz("127.0.0.1", port, secret.encode(), n)
        alive = instance.process.returncode is None
        tracebacks = instance.log_path.read_text(errors="replace").count("Traceback")
    return {"seen": dict(seen), "alive": alive, "tracebacks": tracebacks}


async def measure(plan: Plan, only: list[str]) -> dict[str, Any]:
    folder = Path(mkdtemp(prefix="adversarial-"))
    figures: dict[str, Any] = {}
    stub = [sys.executable, str(HERE / "adversarial_parts" / "stub.py")]
    async with child("stub", stub, folder) as server:
        serve = [*COMMAND, "--port=0", f"--instance={server.told['url']}", *plan.settings]
        async with child(
            "frontend", serve, folder, LLUMNIX_ADMIN_TOKEN=secrets.token_hex(16)
        ) as it:
            frontend = Frontend(it)
            await asyncio.sleep(2.0)
            for name in plan.counts:
                if only and name not in only:
                    continue
                figures[name] = await attack(frontend, name, frontend.port, plan)
                print(f"{name}: {figures[name]}", file=sys.stderr, flush=True)
                if name == "fuzz":
                    figures["admin fuzz"] = await attack(frontend, name, frontend.admin_port, plan)
                    print(f"admin: {figures['admin fuzz']}", file=sys.stderr, flush=True)
            figures["alive"] = frontend.process.returncode is None
            log = frontend.log.read_text(errors="replace")
            figures["tracebacks"] = log.count("Traceback")
    if not only or "control" in only:
        figures["control frames"] = await control_ports(folder, plan.control_frames)
        print(f"control frames: {figures['control frames']}", file=sys.stderr, flush=True)
    return figures


def bars_of(figures: dict[str, Any]) -> list[Bar]:
    attacks = {name: each for name, each in figures.items() if isinstance(each, dict)}
    bars = []
    for name, each in attacks.items():
        if "gap_p99_ms" not in each:
            continue
        gap, left, mb = each["gap_p99_ms"], each["files_left"], each["most_mb"]
        bars.append(Bar(f"{name}: p99 gap of other streams, ms", gap, "<= 50", gap <= GAP_BAR_MS))
        bars.append(Bar(f"{name}: memory, MB", mb, "<= 1500", mb <= MEMORY_BAR_MB))
        bars.append(Bar(f"{name}: files left open", left, f"<= {LEFT_FILES}", left <= LEFT_FILES))
        stuck = each["seen"].get("open", 0) + each["seen"].get("hang", 0)
        bars.append(Bar(f"{name}: connections that hang", stuck, "0", not stuck))
        faults = own_faults(each["seen"])
        bars.append(Bar(f"{name}: 5xx of ours", faults, "0", not faults))
        ended = each["streams_ended"]
        bars.append(Bar(f"{name}: other streams that ended", ended, "0", not ended))
    bars.append(Bar("frontend alive", float(figures["alive"]), "1", figures["alive"]))
    tracebacks = figures["tracebacks"]
    bars.append(Bar("tracebacks in its log", tracebacks, "0", not tracebacks))
    control = attacks.get("control frames")
    if control is not None:
        well = control["alive"] and not control["tracebacks"]
        bars.append(
            Bar("instance alive after control frames, no traceback", float(well), "1", well)
        )
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, < 60 s")
    parser.add_argument("--only", action="append", default=[], metavar="ATTACK")
    args = parser.parse_args()
    figures = uvloop.run(measure(QUICK if args.quick else FULL, args.only))
    return finish("adversarial", bars_of(figures), figures)


if __name__ == "__main__":
    sys.exit(main())
