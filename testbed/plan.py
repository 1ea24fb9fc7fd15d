"""The requests that show whether a migration between real servers is visible from outside.

A setting is a way to run the servers and the requests to move on them; `settings` lists them, in a
full and in a quick version.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llumnix.testbed.environment import Environment
from llumnix.testbed.servers import ServerOptions, fleet_options
from testbed.cases import REASONING_PARSERS, Case, all_cases, reasoning_cases, server_arguments
from testbed.exactness import Comparison, MoveJob, Verdict, prompt_text
from testbed.stack import launched_stack

_CUTS = (0.01, 0.25, 0.5, 0.7)
_CHAIN = (0.05, 0.3, 0.55, 0.8)
_PROMPTS = (50, 600, 2000)
# Requests are moved as fast as possible here; a fleet would let each rest for a while.
_EAGER = {"migration": {"cooldown_s": 0.0, "max_concurrent_out": 8, "max_concurrent_in": 8}}
# One of each kind, where there is no time for all.
_FEW = {("greedy", False), ("seed-penalties", True), ("json", True), ("logprobs", True)}
# A tiny model has answered before its request could be moved.
_STEP_S = 0.012


@dataclass(frozen=True, slots=True)
class Setting:
    """How the servers run, and their requests. `parser` is a reasoning parser."""

    name: str
    jobs: tuple[MoveJob, ...]
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
class SettingResult:
    """A setting's result: the comparison, and what was left in the fleet."""

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
    return _quick() if quick else _whole()


def _quick() -> list[Setting]:
    cases = all_cases()
    few = [case for case in cases if (case.name, case.chat) in _FEW]
    prompts, cuts = (200,), (0.3,)
    plain = [
        *_crossed(cases, prompts, cuts, seed=0),
        *_chained(few),
        *_alike(_crossed(few, (300,), cuts, seed=1)),
    ]
    pressed = [*_crossed(few, (100,), (0.2, 0.4), seed=2), *_chained(few[:2])]
    return [
        Setting("plain", tuple(plain)),
        # Room for a third of what runs at once.
        Setting(
            "pressed",
            tuple(pressed),
            async_scheduling=True,
            blocks=40,
            max_context=1024,
            concurrency=14,
        ),
        *_thinking(prompts, cuts),
    ]


def _whole() -> list[Setting]:
    cases = all_cases()
    plain = [
        *_crossed(cases, _PROMPTS, _CUTS, seed=0),
        *_chained(cases),
        *_alike(_crossed(cases[:12], (300,), _CUTS[:2], seed=1)),
    ]
    asynchronous = [*_crossed(cases, _PROMPTS[:2], _CUTS[1:3], seed=2), *_chained(cases)]
    loaded = _crossed(cases, _PROMPTS[:2], _CUTS[:2], seed=3)
    pressed = _crossed(cases, (1000,), _CUTS[:2], seed=4)
    return [
        Setting("plain", tuple(plain)),
        Setting("async", tuple(asynchronous), async_scheduling=True),
        Setting("load", tuple(loaded), concurrency=24),
        Setting("pressed", tuple(pressed), concurrency=12, blocks=160, max_context=4096),
        *_thinking(_PROMPTS, _CUTS),
    ]


def _thinking(prompts: Sequence[int], cuts: Sequence[float]) -> Iterator[Setting]:
    for parser in REASONING_PARSERS:
        jobs = _crossed(reasoning_cases(parser), prompts, cuts, seed=5)
        yield Setting(parser, tuple(jobs), parser=parser)


def _crossed(
    cases: Sequence[Case], prompts: Sequence[int], cuts: Sequence[float], seed: int
) -> Iterator[MoveJob]:
    """Every case with every prompt and every cut, streamed and whole."""
    for case in cases:
        for letters in prompts:
            for cut in cuts:
                for stream in (True, False):
                    yield MoveJob(case, prompt_text(letters + seed, letters), stream, (cut,))


def _chained(cases: Sequence[Case]) -> Iterator[MoveJob]:
    """A to B to A to B, and on: answers long enough to be moved four times."""
    for case in cases:
        if case.stop_of is None and case.name not in ("json", "tool-required", "tool-named"):
            longer = replace(case, name=f"{case.name}-chain", body={**case.body, "max_tokens": 480})
            yield MoveJob(longer, prompt_text(7, 200), stream=True, cuts=_CHAIN)


def _alike(jobs: Iterable[MoveJob]) -> Iterator[MoveJob]:
    """Identical, unsalted prompts: the destination has their blocks in its prefix cache."""
    for job in jobs:
        yield replace(job, shared_prefix=True)


async def measure(
    setting: Setting, environment: Environment, model: Path, log_dir: Path
) -> SettingResult:
    """Run one setting on separate servers."""
    began_s = time.monotonic()
    async with launched_stack(setting.options(environment, model), log_dir) as stack:
        verdict = await Comparison(stack.fleet, setting.concurrency).run(setting.jobs)
        leaked = await stack.leaked()
        preemptions = await stack.counted("vllm:num_preemptions_total")
        totals = (await stack.fleet.get("/llumnix/fleet"))["totals"]
    return SettingResult(
        verdict,
        leaked,
        int(preemptions),
        int(totals["stream_mismatches"]),
        time.monotonic() - began_s,
    )
