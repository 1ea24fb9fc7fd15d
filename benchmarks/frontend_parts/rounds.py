"""Rounds: every target under the same loads, in turn, so that all share what the machine does."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from frontend_parts.targets import Target
from frontend_parts.tools import Load, ToolError, cpu_s, load, say

GAP_US = 20_000
LONG, SHORT = 100, 1
PLAIN, STREAMED, PACED, TOKENS, FIRST = "plain", "streamed", "paced", "tokens", "first"
CHECK = "check"


@dataclass(frozen=True, slots=True)
class Stage:
    """One load. `options` are those of `load.c`."""

    name: str
    what: str
    options: dict[str, int]
    only: str = ""
    """The one target that is put under it; "": all."""


def stages(scale: float) -> tuple[Stage, ...]:
    """Return the loads of a round; `scale` shortens them."""
    ramp_us = int(500_000 * scale)
    wide = {"conns": 256, "requests": 256, "gap_us": GAP_US, "ramp_us": ramp_us}
    return (
        Stage(
            PLAIN,
            "64 connections, answers of 16 tokens that are not streamed, as fast as it goes",
            {"stream": 0, "requests": int(3000 * scale)},
        ),
        Stage(
            STREAMED,
            "64 connections, streams of 16 tokens, as fast as it goes",
            {"requests": int(1500 * scale)},
        ),
        Stage(
            PACED,
            f"64 connections, streams of 16 tokens, one each {GAP_US // 1000} ms",
            {"requests": int(512 * scale), "gap_us": GAP_US},
        ),
        Stage(
            TOKENS,
            f"256 streams, one token each {GAP_US // 1000} ms",
            {**wide, "tokens": int(LONG * scale)},
        ),
        Stage(FIRST, "the same with one token a stream, to subtract", {**wide, "tokens": SHORT}),
        Stage(
            CHECK,
            "128 connections, streams of 48 tokens, one each 30 ms: for the model",
            {"conns": 128, "requests": int(384 * scale), "tokens": 48, "gap_us": 30_000},
            only="llumnix",
        ),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A load on a target: what clients saw, and CPU seconds of each of its processes."""

    load: Load
    cpu_s: dict[int, float]

    @property
    def total_cpu_s(self) -> float:
        """The CPU time of all processes, in seconds."""
        return sum(self.cpu_s.values())


@dataclass(slots=True)
class Results:
    """All measurements, by target and stage, a list over rounds; and idle CPU, by target."""

    measured: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)
    idle_cores: dict[str, list[float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    others_share: float = 0.0
    """How much of the routers' core was taken by what is not being measured."""


def measure(target: Target, stage: Stage, cores: Sequence[int]) -> Measured:
    """Put one load on one target. Raises ToolError."""
    before = cpu_s(target.pid) if target.pid else {}
    seen = load(cores, target.port, **stage.options)
    after = cpu_s(target.pid) if target.pid else {}
    return Measured(seen, {pid: used - before.get(pid, 0.0) for pid, used in after.items()})


def run_rounds(
    targets: Sequence[Target],
    the_stages: Sequence[Stage],
    rounds: int,
    cores: Sequence[int],
    idle_s: float,
    router_core: int,
) -> Results:
    """Run all rounds; the order of targets is drawn anew in each."""
    results, rng = Results(), random.Random(0)
    began_s, had_s, ours_s = time.monotonic(), busy_s(router_core), _cpu_of(targets)
    for target in targets:
        results.measured[target.name] = {stage.name: [] for stage in the_stages}
        results.idle_cores[target.name] = []
    for number in range(rounds):
        round_s = time.monotonic()
        _rest(targets, results, idle_s)
        for stage in the_stages:
            these = [each for each in targets if stage.only in ("", each.name)]
            for target in rng.sample(these, len(these)):
                try:
                    seen = measure(target, stage, cores)
                except ToolError as error:
                    results.broken.append(f"{target.name}, {stage.name}: {error}")
                    continue
                results.measured[target.name][stage.name].append(seen)
                if seen.load.failed:
                    results.broken.append(
                        f"{target.name}, {stage.name}: {seen.load.failed} of"
                        f" {seen.load.requests} failed: {seen.load.failure}"
                    )
        say(f"round {number + 1} of {rounds}: {time.monotonic() - round_s:.0f} s")
    foreign_s = busy_s(router_core) - had_s - (_cpu_of(targets) - ours_s)
    results.others_share = max(0.0, foreign_s / (time.monotonic() - began_s))
    return results


def _cpu_of(targets: Sequence[Target]) -> float:
    return sum(sum(cpu_s(each.pid).values()) for each in targets if each.pid)


def busy_s(core: int) -> float:
    """Return how long a core has been busy since the machine started, in seconds."""
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] == f"cpu{core}":
            user, nice, system, _idle, _wait, *interrupts = map(int, words[1:8])
            return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _rest(targets: Sequence[Target], results: Results, idle_s: float) -> None:
    """Measure what the targets take with no work at all: polls, timers."""
    before = [sum(cpu_s(target.pid).values()) if target.pid else 0.0 for target in targets]
    time.sleep(idle_s)
    for target, had in zip(targets, before, strict=True):
        if target.pid:
            used = sum(cpu_s(target.pid).values()) - had
            results.idle_cores[target.name].append(used / idle_s)
