"""Faults at every moment of migrations between real vLLM servers: is every stream unharmed?

Three servers (CPU, fp32, a tiny model), each behind a proxy that sees the messages of migrations
and injects a fault during a certain one: `kill -9` of source or destination, a cut or lossy link, a
client that leaves, a request that ends or is preempted, a destination whose memory fills up (and
which therefore refuses) or that is drained. Every answer must equal that of an undisturbed run, and
all KV blocks and staging memory must come back.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from harness import Bar, finish
from llumnix.testbed import VERSIONS, Environment, ensure_environment, write_model
from llumnix.testbed.servers import fleet_options, free_port
from testbed.cases import Case, all_cases, server_arguments
from testbed.chaos import ChaosProxy, chaos_in_front_of
from testbed.exactness import prompt_text
from testbed.faults import BLOCKS, MAX_CONTEXT, MOMENTS, FaultCase, FaultOutcome, FaultRun, summary
from testbed.stack import Stack, launched_stack

SERVERS = 3
CHEAP = ("cut", "drop", "disconnect", "finish", "preempt", "fill memory", "drain")
KILLS = ("kill source", "kill destination")
KINDS = ("greedy", "seed-penalties", "json", "tool-auto", "logprobs")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each moment once, few kills")
    parser.add_argument("--vllm", default=VERSIONS[0], choices=VERSIONS, metavar="VERSION")
    parser.add_argument("--fault", action="append", metavar="NAME", help="repeatable")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs there")
    return parser.parse_args()


def kinds() -> list[Case]:
    """Requests long enough to be met in every moment of a migration."""
    known = {(case.name, case.chat): case for case in all_cases()}
    picked = [known.get((name, True)) or known[name, False] for name in KINDS]
    return [replace(case, body={**case.body, "max_tokens": 300}) for case in picked]


def cases(faults: Sequence[str], *, quick: bool) -> list[FaultCase]:
    found: list[FaultCase] = []
    for fault in faults:
        repeats = 1 if quick or fault in KILLS else 2
        for number, moment in enumerate(MOMENTS):
            if quick and fault in KILLS and number % 3:
                continue
            if fault in ("cut", "drop") and moment == MOMENTS[-1]:  # there is no message to lose
                continue
            for turn in range(repeats):
                case = kinds()[(number + turn + len(found)) % len(KINDS)]
                prompt = prompt_text(number, 700)
                found.append(FaultCase(fault, moment, case, prompt, stream=turn != 1))
    return found


@asynccontextmanager
async def stack_with_chaos(
    environment: Environment, model: Path, log_dir: Path | None
) -> AsyncIterator[tuple[Stack, dict[str, ChaosProxy]]]:
    """Run the servers, a proxy before each one's control port, and a frontend."""
    arguments = server_arguments("")
    options = fleet_options(environment, model, SERVERS, arguments=arguments, blocks=BLOCKS)
    async with AsyncExitStack() as open_until_end:
        proxies: dict[str, ChaosProxy] = {}
        placed = []
        for number, each in enumerate(options):
            port = free_port()
            proxy = await open_until_end.enter_async_context(chaos_in_front_of(port))
            proxies[f"vllm-{number}"] = proxy
            settings = {"control_port": port, "advertise_port": proxy.port}
            placed.append(
                replace(
                    each,
                    plugin_settings=settings,
                    max_context=MAX_CONTEXT,
                    variables={"VLLM_SERVER_DEV_MODE": "1"},  # it can be told to preempt
                )
            )
        stack = await open_until_end.enter_async_context(launched_stack(placed, log_dir))
        yield stack, proxies


async def measure(options: argparse.Namespace) -> list[FaultOutcome]:
    environment = ensure_environment(options.vllm)
    faults = options.fault or [*CHEAP, *KILLS]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        async with stack_with_chaos(environment, model, options.log_dir) as (stack, proxies):
            run = FaultRun(stack, proxies)
            for case in cases(faults, quick=options.quick):
                outcome = await run.run(case)
                outcomes.append(outcome)
                mark = "ok" if not outcome.wrong else "WRONG: " + "; ".join(outcome.wrong)
                met = "" if outcome.struck else " (not met)"
                print(f"{outcome.seconds:6.1f} s  {outcome.name}{met}: {mark}", flush=True)
    return outcomes


def main() -> int:
    options = arguments()
    outcomes = asyncio.run(measure(options))
    figures = summary(outcomes)
    wanted = 30 if options.quick else 100
    bars = [
        Bar("streams harmed or blocks left over", figures["wrong"], "0", not figures["wrong"]),
        Bar("faults that struck", figures["struck"], f">= {wanted}", figures["struck"] >= wanted),
    ]
    return finish("vllm_faults", bars, {"vllm": options.vllm, **figures})


if __name__ == "__main__":
    sys.exit(main())
