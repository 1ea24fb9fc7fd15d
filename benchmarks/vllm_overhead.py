"""What the plugin costs a vLLM server while nothing is moved: matched pairs with a plain one.

Two equal vLLM servers on this machine's CPU, one with the plugin loaded, its requests tagged and a
frontend linked to its llumlet, as in a fleet; one without any of that. They are restarted a few
times, in alternating order: a process's memory placement makes a few per cent, for all of its life.
Only one of them works at a time. A round is plain, plugin, plugin, plain, or the reverse,
alternately: eight streams at once for the time per token; then, in many short turns of the same
order, one stream for the interval between tokens, because a shared machine's speed varies within
seconds. Each round gives one ratio; above 1 the plugin costs something. The CPU time of all
processes of a server is counted too: the same work takes the same CPU, however busy the machine.
Servers start before any clock does; `--quick` takes less than 60 s from there.
"""

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import aiohttp
import numpy as np

from harness import Bar, Stream, finish
from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed import VERSIONS, ServerOptions, VllmServer, ensure_environment
from llumnix.testbed.model import MID, TINY, write_model
from llumnix.testbed.servers import launched_vllm

SHAPES = {"mid": MID, "tiny": TINY}
STREAMS = 8
PROMPT_TOKENS = 64
TOKENS = 64
TURNS = 4
"""How often per round the single streams go plain, plugin, plugin, plain."""
FIGURES = ("token_ms", "interval_ms", "cpu_ms")
TITLES = {
    "token_ms": f"time a token, {STREAMS} streams",
    "interval_ms": "interval between tokens, 1 stream",
    "cpu_ms": "CPU time a token",
}
RESAMPLES = 20_000
MAX_RATIO = 1.03

Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """Two samples of each server, each of one half of the round."""

    plain: tuple[Sample, Sample]
    plugin: tuple[Sample, Sample]

    def ratio(self, figure: str) -> float:
        """Return how much more the plugin's server took."""
        ours, theirs = (sum(one[figure] for one in side) for side in (self.plugin, self.plain))
        return ours / theirs

    def null(self, figure: str) -> float:
        """Compare the two samples of either server, for the noise in `ratio`."""
        first, second = (self.plain[at][figure] + self.plugin[at][figure] for at in (0, 1))
        return second / first


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few, short rounds, < 60 s")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument(
        "--starts", type=int, default=8, help="server starts; they share the rounds"
    )
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per stream")
    parser.add_argument("--model", choices=sorted(SHAPES), default="mid")
    parser.add_argument("--vllm", default=VERSIONS[0], choices=VERSIONS, metavar="VERSION")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs there")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.starts, args.tokens = 2, 1, 32
    return args


async def measure(args: argparse.Namespace, folder: Path) -> list[Round]:
    shape = SHAPES[args.model]
    model = write_model(folder / "model", shape)
    plain = ServerOptions(
        ensure_environment(args.vllm),
        model,
        secret=secrets.token_hex(16),
        dtype=shape.dtype,
        max_context=4096,
    )
    (folder / "secret").write_text(plain.secret)
    rounds: list[Round] = []
    for start in range(args.starts):
        due = args.rounds * (start + 1) // args.starts - len(rounds)
        rounds += await measure_from_start(args, folder, plain, start, due)
    return rounds


async def measure_from_start(
    args: argparse.Namespace, folder: Path, plain: ServerOptions, start: int, n_rounds: int
) -> list[Round]:
    """Start both servers, the plugin's first every other time, and measure some rounds."""
    logs = (args.log_dir or folder) / f"start-{start}"
    options = [plain, replace(plain, plugin=True)]
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    connector = aiohttp.TCPConnector(force_close=True)  # a server closes idle connections
    async with (
        launched_vllm(options[:: -1 if start % 2 else 1], logs) as started,
        aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
    ):
        servers = sorted(started, key=lambda server: server.options.plugin)
        serving = ["--port=0", f"--secret-file={folder / 'secret'}", f"--instance={servers[1].url}"]
        async with launched_frontend(serving, logs) as url:
            await linked(session, url)
            bench = Bench(session, args.tokens)
            for server in servers:
                await bench.together(server)  # the first finds cold caches
            rounds = []
            for number in range(n_rounds):
                rounds.append(await bench.round(servers, plugin_first=number % 2 == 1))
                shown = "  ".join(f"{name} {rounds[-1].ratio(name):.3f}" for name in FIGURES)
                print(f"start {start + 1}: plugin / plain  {shown}", file=sys.stderr, flush=True)
    return rounds


async def linked(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the frontend hears from the llumlet."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{url}/llumnix/fleet") as answer:
                rows = (await answer.json())["instances"]
            if all(row["state"] == "up" for row in rows):
                return
            await asyncio.sleep(0.1)


class Bench:
    """The load, the same for both servers."""

    def __init__(self, session: aiohttp.ClientSession, tokens: int) -> None:
        self._session = session
        self._tokens = tokens

    async def round(self, servers: Sequence[VllmServer], *, plugin_first: bool) -> Round:
        """Measure in the order A, B, B, A: a machine that slows down steadily favours neither."""
        order = (1, 0, 0, 1) if plugin_first else (0, 1, 1, 0)
        together: tuple[list[Sample], list[Sample]] = ([], [])
        for which in order:
            together[which].append(await self.together(servers[which]))
        alone: tuple[list[float], list[float]] = ([], [])
        for which in order * TURNS:
            alone[which].append(await self._interval_ms(servers[which]))
        halves = [
            tuple(
                sample | {"interval_ms": fmean(alone[which][half * TURNS : (half + 1) * TURNS])}
                for half, sample in enumerate(together[which])
            )
            for which in (0, 1)
        ]
        return Round((halves[0][0], halves[0][1]), (halves[1][0], halves[1][1]))

    async def together(self, server: VllmServer) -> Sample:
        """Make one server work on many streams; the other stands still."""
        cpu_s, began_s = cpu_seconds(server.pid), time.perf_counter()
        await asyncio.gather(*(self._stream(server, self._tokens) for _ in range(STREAMS)))
        took_s = time.perf_counter() - began_s
        tokens = STREAMS * self._tokens
        return {
            "token_ms": took_s / tokens * 1e3,
            "cpu_ms": (cpu_seconds(server.pid) - cpu_s) / tokens * 1e3,
        }

    async def _interval_ms(self, server: VllmServer) -> float:
        stream = await self._stream(server, self._tokens)
        return float(median(stream.intervals_s(1))) * 1e3

    async def _stream(self, server: VllmServer, tokens: int) -> Stream:
        draws = np.random.default_rng(secrets.randbits(32))
        prompt = [int(one) for one in draws.integers(32, 127, PROMPT_TOKENS)]
        stream = Stream(prompt, tokens)
        extra: dict[str, Any] = {"temperature": 0}
        if server.options.plugin:
            tag = {"request_id": stream.request_id, "class_index": 0}
            extra["kv_transfer_params"] = {"llumnix_request": tag}
        await stream.run(self._session, server.url, extra)
        assert not stream.error, stream.error
        return stream


def cpu_seconds(group: int) -> float:
    """Add up the CPU time of all living processes of a group (proc(5): stat)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Interval:
    """A geometric mean with its 95 % interval."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Interval":
        """Find it by bootstrap, over rounds, always with the same draws."""
        logs = np.log(ratios)
        draws = np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))
        low, high = np.exp(np.quantile(logs[draws].mean(axis=1), (0.025, 0.975)))
        return cls(float(low), float(np.exp(logs.mean())), float(high))

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


def judge(found: dict[str, Interval]) -> list[Bar]:
    """Hold the intervals against the bar of the issue; CPU time is shown beside them."""
    bars = []
    for figure in FIGURES[:2]:
        interval = found[figure]
        ok = interval.low <= 1 and interval.high < MAX_RATIO
        bar = f"95 % interval contains 1 (or less) and ends below {MAX_RATIO}"
        bars.append(Bar(f"plugin / plain: {TITLES[figure]}, {interval}", interval.high, bar, ok))
    return bars


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="llumnix-overhead-") as folder:
        rounds = asyncio.run(measure(args, Path(folder)))
    ratios = {figure: [one.ratio(figure) for one in rounds] for figure in FIGURES}
    found = {figure: Interval.of(each) for figure, each in ratios.items()}
    nulls = {figure: Interval.of([one.null(figure) for one in rounds]) for figure in FIGURES}
    plain = {
        figure: median(sample[figure] for one in rounds for sample in one.plain)
        for figure in FIGURES
    }
    print(f"\n{'':<36}{'plain':>9}  {'plugin / plain':<28}second / first half", file=sys.stderr)
    for figure in FIGURES:
        ours, null = str(found[figure]), str(nulls[figure])
        print(f"{TITLES[figure]:<36}{plain[figure]:6.2f} ms  {ours:<28}{null}", file=sys.stderr)
    figures = {
        "vllm": args.vllm,
        "model": args.model,
        "rounds": args.rounds,
        "plain_p50": plain,
        "ratio": {name: str(each) for name, each in found.items()},
        "null": {name: str(each) for name, each in nulls.items()},
        "ratios": {name: [round(one, 4) for one in each] for name, each in ratios.items()},
    }
    return finish("vllm_overhead", judge(found), figures)


if __name__ == "__main__":
    sys.exit(main())
