"""Many open streams through one frontend: 20,000 that get a token a second, 1,000 long ones.

The stub servers, the clients and the frontend's workers share the machine's cores. Every token is
checked by its number and timed from the server's write to the client's read. Memory is what the
frontend's processes have to themselves, before and while all streams are open; sockets' buffers
are the kernel's and not in it.
"""

import argparse
import math
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from frontend_parts.targets import NotStartedError, Target, commands, has_workers, running
from frontend_parts.tools import Load, ToolError, cpu_s, load, resident_bytes, say, stub

from harness import Bar, finish

STREAMS, GAP_US = 20_000, 1_000_000
LONG_STREAMS, LONG_TOKENS, LONG_MB = 1_000, 4_096, 40.0
LONG_TOKENS_PER_S = 25_000
PER_STREAM_BYTES = 20 * 1024
FORWARD_MS = 50.0
TOOLS = 3
"""Stub servers, and clients: none of them may need more open files than a process may have."""
SPARE_FILES = 500
EVENT_BYTES = 250
"""About what the stub writes per token."""
SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a run: streams that are opened within `ramp_s`, then held for `hold_s`."""

    streams: int
    ramp_s: int
    hold_s: int
    long_streams: int
    long_tokens: int = LONG_TOKENS


@dataclass(frozen=True, slots=True)
class Held:
    """What a load came to: its clients' figures, and the frontend's memory and CPU time."""

    loads: list[Load]
    before_bytes: int
    open_bytes: int
    peak_bytes: int
    open_after_s: float
    cpu_s: float

    @property
    def failed(self) -> int:
        """How many streams were not whole."""
        return sum(each.failed for each in self.loads)

    @property
    def tokens(self) -> int:
        """How many tokens came."""
        return sum(each.tokens for each in self.loads)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 streams, 100 long ones")
    parser.add_argument("--workers", type=int, help="default: 2, more where files are few")
    args = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    plan = Plan(2000, 5, 10, 100) if args.quick else Plan(STREAMS, 40, 60, LONG_STREAMS)
    workers, streams = fitting(plan.streams, files, args.workers)
    if streams < plan.streams:
        say(f"ONLY {streams} STREAMS: a process may open {files} files here (ulimit -Hn)")
    try:
        with served(workers) as frontend:
            open_ones = hold_open(frontend, streams, plan)
        with served(workers) as frontend:  # anew: memory freed before would hide what is taken
            long_ones = run_long(frontend, plan)
    except (ToolError, NotStartedError) as error:
        print(f"open_streams.py: {error}", file=sys.stderr)
        return 2
    figures = {
        "streams": streams,
        "workers": workers,
        "long_streams": plan.long_streams,
        "open": asdict(open_ones),
        "long": asdict(long_ones),
    }
    return finish("open_streams", bars(plan, streams, open_ones, long_ones), figures)


def fitting(streams: int, files: int, workers: int | None) -> tuple[int, int]:
    """Return how many workers there must be, and how many streams they can hold.

    A worker has two sockets open per stream, and the kernel does not split streams evenly.
    """
    each = int((files - SPARE_FILES) / 2 / 1.05)
    if not has_workers():
        return 1, min(streams, each)
    workers = workers or max(2, math.ceil(streams / each))
    return workers, min(streams, each * workers)


@contextmanager
def served(workers: int) -> Iterator[Target]:
    """Run the stub servers and a frontend over them within the context."""
    name = "llumnix" if workers == 1 else "llumnix-workers"
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llumnix-bench-")))
        ports = [stack.enter_context(stub(cores, 1))[0] for _ in range(TOOLS)]
        found = commands([name], folder, workers)
        yield stack.enter_context(running(found, ports, cores, folder))[0]


def put(frontend: Target, conns: int, **options: int) -> Held:
    """Open this many connections from several clients, and run their streams to the end."""
    cores = sorted(os.sched_getaffinity(0))
    load(cores, frontend.port, conns=64, requests=512)  # what is made once
    assert frontend.pid is not None
    before, cpu_before_s = resident_bytes(frontend.pid), _cpu_s(frontend)
    began_s = time.monotonic()
    sampler = Sampler(frontend.pid, TOOLS)
    shares = [conns // TOOLS + (number < conns % TOOLS) for number in range(TOOLS)]

    def run(share: int) -> Load:
        wanted = {"conns": share, "requests": share, "sources": 8, **options}
        return load(cores, frontend.port, sampler.one_open, **wanted)

    with sampler, ThreadPoolExecutor(TOOLS) as pool:
        loads = list(pool.map(run, shares))
    held = Held(
        loads,
        before,
        sampler.open_bytes,
        sampler.peak_bytes,
        sampler.open_s - began_s,
        _cpu_s(frontend) - cpu_before_s,
    )
    for each in loads:
        if each.failed:
            say(f"{each.failed} streams failed: {each.failure}")
    return held


class Sampler(threading.Thread):
    """Looks at a process's memory until it is left: the most, and when all streams are open."""

    def __init__(self, pid: int, clients: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._to_come = pid, clients
        self._lock, self._over = threading.Lock(), threading.Event()
        self.open_bytes, self.peak_bytes, self.open_s = 0, 0, math.nan

    def one_open(self) -> None:
        """Note that one more client has all its streams open."""
        with self._lock:
            self._to_come -= 1
            if not self._to_come:
                self.open_s, self.open_bytes = time.monotonic(), resident_bytes(self._pid)

    def run(self) -> None:
        """Sample until the context is left."""
        while not self._over.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def hold_open(frontend: Target, streams: int, plan: Plan) -> Held:
    """Open streams that get a token a second."""
    say(f"opening {streams} streams in {plan.ramp_s} s, held for {plan.hold_s} s")
    return put(
        frontend,
        streams,
        tokens=plan.ramp_s + plan.hold_s,
        gap_us=GAP_US,
        ramp_us=plan.ramp_s * 1_000_000,
        timeout_s=4 * (plan.ramp_s + plan.hold_s),
    )


def run_long(frontend: Target, plan: Plan) -> Held:
    """Run long streams side by side, at a pace at which nothing waits anywhere."""
    gap_us = int(plan.long_streams * 1e6 / LONG_TOKENS_PER_S)
    say(f"{plan.long_streams} streams of {plan.long_tokens} tokens, {LONG_TOKENS_PER_S} tokens/s")
    options = {"tokens": plan.long_tokens, "gap_us": gap_us, "timeout_s": 900}
    # Words: the times that other streams have for text weigh more, and do not compress.
    return put(frontend, plan.long_streams, ramp_us=2_000_000, words=1, **options)


def _cpu_s(frontend: Target) -> float:
    assert frontend.pid is not None
    return sum(cpu_s(frontend.pid).values())


def worst(loads: Sequence[Load], of: Callable[[Load], float]) -> float:
    """Return the largest of a figure over clients: it bounds what all together had."""
    return max(map(of, loads))


def bars(plan: Plan, streams: int, open_ones: Held, long_ones: Held) -> list[Bar]:
    """Judge the figures."""
    wanted = streams * (plan.ramp_s + plan.hold_s)
    lost = float(open_ones.failed + wanted - open_ones.tokens)
    p99_ms = worst(open_ones.loads, lambda each: each.steady_ms["p99"])
    per_stream = (open_ones.open_bytes - open_ones.before_bytes) / streams
    answer = EVENT_BYTES * plan.ramp_s / 2
    long_mb = (long_ones.peak_bytes - long_ones.before_bytes) / 1e6
    allowed_mb = LONG_MB * plan.long_streams / LONG_STREAMS
    say(
        f"all open after {open_ones.open_after_s:.0f} s; forward p99 {p99_ms:.1f} ms;"
        f" {per_stream / 1024:.1f} KiB a stream, of which its answer {answer / 1024:.1f};"
        f" {open_ones.cpu_s:.0f} s of CPU; long ones: {long_mb:.1f} MB,"
        f" {1e6 * long_ones.cpu_s / max(1, long_ones.tokens):.1f} µs of CPU per token"
    )
    return [
        Bar("streams open at once", float(streams), f"= {plan.streams}", streams == plan.streams),
        Bar("tokens lost and streams failed", lost, "= 0", lost == 0),
        Bar("forward p99, ms", p99_ms, f"<= {FORWARD_MS:g}", 0 <= p99_ms <= FORWARD_MS),
        Bar(
            "memory per open stream, KiB",
            per_stream / 1024,
            f"<= 20 + {answer / 1024:.1f}",
            per_stream <= PER_STREAM_BYTES + answer,
        ),
        Bar(
            f"{plan.long_streams} streams of {plan.long_tokens} tokens, MB",
            long_mb,
            f"<= {allowed_mb:g}",
            long_mb <= allowed_mb and not long_ones.failed,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
