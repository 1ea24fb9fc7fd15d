"""Live migrations between real vLLM servers: is what the client sees what it would have seen?

Requests of every kind are sent through the frontend to vLLM servers (CPU, fp32, a tiny model)
twice unmoved (reference and control), then again and again while they are moved at a given place.
A migration counts when it brought KV from one server to the other. Needs the test bed's
environment, which is built at the first run.
"""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Bar, finish
from llumnix.testbed import VERSIONS, Environment, ensure_environment, write_model
from llumnix.testbed.cases import Case, all_cases, reasoning_cases, server_arguments
from llumnix.testbed.exactness import Comparison, Job, Verdict, prompt_text
from llumnix.testbed.servers import fleet_options
from llumnix.testbed.stack import launched_stack

CUTS = (0.01, 0.25, 0.5, 0.7)
PROMPTS = (50, 600, 2000)
CHAIN = (0.05, 0.3, 0.55, 0.8)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one cut and prompt a case, < 5 min")
    parser.add_argument("--vllm", default=VERSIONS[0], choices=VERSIONS, metavar="VERSION")
    parser.add_argument("--only", action="append", metavar="SETTING", help="repeatable")
    parser.add_argument("--case", action="append", metavar="NAME", help="repeatable")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs there")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Setting:
    """How the servers run, and what is asked of them."""

    name: str
    jobs: list[Job]
    parser: str = ""
    async_scheduling: bool = False
    blocks: int = 512
    concurrency: int = 4


def crossed(
    cases: Sequence[Case], prompts: Sequence[int], cuts: Sequence[float], salt: int
) -> Iterator[Job]:
    """Every case with every prompt and every cut, streamed and whole."""
    for case in cases:
        for letters in prompts:
            for cut in cuts:
                for stream in (True, False):
                    yield Job(case, prompt_text(letters + salt, letters), stream, (cut,))


def chained(cases: Sequence[Case]) -> Iterator[Job]:
    """A to B to A to B, and on: requests long enough to be moved four times."""
    for case in cases:
        if case.stop_of is None and case.name not in ("json", "tool-required", "tool-named"):
            longer = dataclasses.replace(
                case, name=f"{case.name}-chain", body={**case.body, "max_tokens": 480}
            )
            yield Job(longer, prompt_text(7, 200), stream=True, cuts=CHAIN)


def settings(*, quick: bool) -> list[Setting]:
    cases = all_cases()
    prompts, cuts = ((200,), (0.3,)) if quick else (PROMPTS, CUTS)
    thinking = [
        Setting(name, list(crossed(reasoning_cases(name), prompts, cuts, 5)), parser=name)
        for name in ("granite", "deepseek_r1")
    ]
    whole = [*crossed(cases, prompts, cuts, 0), *chained(cases[:4] if quick else cases)]
    few = prompts[:1] if quick else prompts[:2]
    # Prompts all alike, unsalted: the destination has their blocks in its prefix cache.
    cached = [
        dataclasses.replace(job, shared_prefix=True)
        for job in crossed(cases[:4] if quick else cases[:12], (300,), cuts[:2], 1)
    ]
    overlapping = list(crossed(cases, few, cuts[-2:], 2))
    loaded = list(crossed(cases, prompts[:2], cuts[:2], 3))
    pressed = list(crossed(cases, (prompts[-1] // 2,), cuts[:2], 4))
    return [
        Setting("plain", [*whole, *cached]),
        Setting("async", overlapping, async_scheduling=True),
        Setting("load", loaded, concurrency=16),
        Setting("pressure", pressed, concurrency=12, blocks=160 if not quick else 40),
        *thinking,
    ]


async def measure(
    setting: Setting, environment: Environment, model: Path, log_dir: Path
) -> tuple[Verdict, dict[str, Any]]:
    began_s = time.monotonic()
    options = fleet_options(
        environment,
        model,
        arguments=server_arguments(setting.parser),
        async_scheduling=setting.async_scheduling,
        blocks=setting.blocks,
    )
    if setting.blocks < 512:
        room = setting.blocks * options[0].block_tokens
        options = [dataclasses.replace(one, max_context=min(room, 4096)) for one in options]
    async with launched_stack(options, log_dir / setting.name) as stack:
        verdict = await Comparison(stack.fleet, setting.concurrency).run(setting.jobs)
        figures = {
            **verdict.as_json(),
            "leaked": await stack.leaked(),
            "preemptions": await stack.counted("vllm:num_preemptions_total"),
            "lag_tokens": stack.fleet.lag,
            "stream_mismatches": (await stack.fleet.get("/llumnix/fleet"))["totals"][
                "stream_mismatches"
            ],
            "seconds": round(time.monotonic() - began_s),
        }
    print(f"{setting.name}: {figures}", file=sys.stderr, flush=True)
    return verdict, figures


def bars(total: Verdict, figures: dict[str, Any], *, quick: bool) -> list[Bar]:
    least = 60 if quick else 1000
    leaks = sum(len(each["leaked"]) for each in figures.values())
    never = [name for name in total.stayed if name not in total.moved]
    mismatches = sum(each["stream_mismatches"] for each in figures.values())
    return [
        Bar("migrations that brought KV", total.moves, f">= {least}", total.moves >= least),
        Bar("answers unlike the unmoved one", len(total.unlike), "0", not total.unlike),
        Bar(
            f"of {total.controls} unmoved answers asked twice, unlike",
            len(total.control_unlike),
            "0 (the control)",
            not total.control_unlike,
        ),
        Bar("servers holding blocks at the end", leaks, "0", not leaks),
        Bar("replays unlike what the client had", mismatches, "0", not mismatches),
        Bar("kinds of request never moved", len(never), "0", not never),
        Bar(
            "stop strings that straddled a cut",
            total.stops_straddled,
            ">= 1",
            total.stops_straddled >= 1,
        ),
    ]


async def run_all(args: argparse.Namespace, folder: Path) -> tuple[Verdict, dict[str, Any]]:
    environment = ensure_environment(args.vllm)
    model = write_model(folder / "model")
    total, figures = Verdict(), {}
    for setting in settings(quick=args.quick):
        if args.only and setting.name not in args.only:
            continue
        chosen = [job for job in setting.jobs if not args.case or job.case.name in args.case]
        if not chosen:
            continue
        one = dataclasses.replace(setting, jobs=chosen)
        verdict, figures[setting.name] = await measure(
            one, environment, model, args.log_dir or folder
        )
        total.add(verdict)
    return total, figures


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="llumnix-exactness-") as folder:
        total, figures = asyncio.run(run_all(args, Path(folder)))
    for problem in (*total.unlike, *total.control_unlike):
        print(f"unlike: {problem}", file=sys.stderr)
    return finish(
        "vllm_exactness",
        bars(total, figures, quick=args.quick),
        {"vllm": args.vllm, **figures},
    )


if __name__ == "__main__":
    sys.exit(main())
