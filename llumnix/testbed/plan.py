"""What is asked of real servers to find out whether a migration can be told from outside.

A setting is a way to run the servers and the requests to move on them; `settings` lists them, in
a whole and in a quick version.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llumnix.testbed.cases import Case, all_cases, reasoning_cases, server_arguments
from llumnix.testbed.environment import Environment
from llumnix.testbed.exactness import Comparison, Job, Verdict, prompt_text
from llumnix.testbed.servers import ServerOptions, fleet_options
from llumnix.testbed.stack import launched_stack

_CUTS = (0.01, 0.25, 0.5, 0.7)
_CHAIN = (0.05, 0.3, 0.55, 0.8)
_PROMPTS = (50, 600, 2000)
# Requests are moved as fast as they can be here; a fleet would let each rest for a while.
_EAGER = {"migration": {"cooldown_s": 0.0, "max_concurrent_out": 8, "max_concurrent_in": 8}}
# A tiny model has answered before anybody could move its request.
_STEP_S = 0.012


@dataclass(frozen=True, slots=True)
class Setting:
    """How the servers run, and what is asked of them. `parser` is a reasoning parser."""

    name: str
    jobs: tuple[Job, ...]
    parser: str = ""
    async_scheduling: bool = False
    blocks: int = 512
    max_context: int = 8192
    concurrency: int = 8

    def options(self, environment: Environment, model: Path) -> list[ServerOptions]:
        """Describe the two servers."""
        options = fleet_options(
            environment,
            model,
            arguments=server_arguments(self.parser),
            async_scheduling=self.async_scheduling,
            blocks=self.blocks,
        )
        return [
            replace(
                each,
                plugin_settings=_EAGER,
                max_context=self.max_context,
                step_s=_STEP_S,
            )
            for each in options
        ]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a setting gave: the comparison, and what the fleet was left with."""

    verdict: Verdict
    leaked: dict[str, float]
    preemptions: int
    mismatches: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            **self.verdict.as_json(),
            "leaked": self.leaked,
            "preemptions": self.preemptions,
            "stream_mismatches": self.mismatches,
            "seconds": round(self.seconds),
        }


def settings(*, quick: bool) -> list[Setting]:
    """List all settings; `quick` has one prompt and one cut for each kind of request."""
    cases = all_cases()
    some = cases[:4] if quick else cases
    prompts, cuts = ((200,), (0.3,)) if quick else (_PROMPTS, _CUTS)
    plain = [
        *_crossed(cases, prompts, cuts, seed=0),
        *_chained(some),
        *_alike(_crossed(some[:12], (300,), cuts[:2], seed=1)),
    ]
    asynchronous = [*_crossed(some, prompts[:2], cuts[-2:], seed=2), *_chained(some[:4])]
    loaded = _crossed(some, prompts[:2], cuts[:2], seed=3)
    pressed = _crossed(some, (100 if quick else 1000,), cuts[:2], seed=4)
    # Room for a third of what runs at once.
    blocks, context = (40, 1024) if quick else (160, 4096)
    thinking = [
        Setting(name, tuple(_crossed(reasoning_cases(name), prompts, cuts, seed=5)), parser=name)
        for name in ("granite", "deepseek_r1")
    ]
    return [
        Setting("plain", tuple(plain)),
        Setting("async", tuple(asynchronous), async_scheduling=True),
        Setting("load", tuple(loaded), concurrency=24),
        Setting("pressure", tuple(pressed), blocks=blocks, max_context=context, concurrency=12),
        *thinking,
    ]


def _crossed(
    cases: Sequence[Case], prompts: Sequence[int], cuts: Sequence[float], seed: int
) -> Iterator[Job]:
    """Every case with every prompt and every cut, streamed and whole."""
    for case in cases:
        for letters in prompts:
            for cut in cuts:
                for stream in (True, False):
                    yield Job(case, prompt_text(letters + seed, letters), stream, (cut,))


def _chained(cases: Sequence[Case]) -> Iterator[Job]:
    """A to B to A to B, and on: answers long enough to be moved four times."""
    for case in cases:
        if case.stop_of is None and case.name not in ("json", "tool-required", "tool-named"):
            longer = replace(case, name=f"{case.name}-chain", body={**case.body, "max_tokens": 480})
            yield Job(longer, prompt_text(7, 200), stream=True, cuts=_CHAIN)


def _alike(jobs: Iterable[Job]) -> Iterator[Job]:
    """Prompts all alike and unsalted: the destination has their blocks in its prefix cache."""
    for job in jobs:
        yield replace(job, shared_prefix=True)


async def measure(
    setting: Setting, environment: Environment, model: Path, log_dir: Path
) -> Measured:
    """Run one setting on servers of its own."""
    began_s = time.monotonic()
    async with launched_stack(setting.options(environment, model), log_dir) as stack:
        verdict = await Comparison(stack.fleet, setting.concurrency).run(setting.jobs)
        leaked = await stack.leaked()
        preemptions = await stack.counted("vllm:num_preemptions_total")
        totals = (await stack.fleet.get("/llumnix/fleet"))["totals"]
    return Measured(
        verdict,
        leaked,
        int(preemptions),
        int(totals["stream_mismatches"]),
        time.monotonic() - began_s,
    )
