"""Live migrations between real vLLM servers: does the client see what it would have seen?

Requests of every kind are sent through the frontend to two vLLM servers (CPU, fp32, a tiny model)
twice unmoved (reference and control), then repeatedly while they are moved at a given place. A
migration counts when it brought KV from one server to the other. Needs the test bed's environment,
which is built at the first run.
"""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from pathlib import Path

from harness import Bar, finish
from llumnix.testbed import VERSIONS, ensure_environment, write_model
from testbed.exactness import Verdict
from testbed.plan import SettingResult, measure, settings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one cut and prompt per kind")
    parser.add_argument("--vllm", default=VERSIONS[0], choices=VERSIONS, metavar="VERSION")
    parser.add_argument("--setting", action="append", metavar="NAME", help="repeatable")
    parser.add_argument("--case", action="append", metavar="NAME", help="repeatable")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs there")
    return parser.parse_args()


async def run_all(args: argparse.Namespace, folder: Path) -> dict[str, SettingResult]:
    environment = ensure_environment(args.vllm)
    model = write_model(folder / "model")
    measured: dict[str, SettingResult] = {}
    for setting in settings(quick=args.quick):
        jobs = tuple(job for job in setting.jobs if not args.case or job.case.name in args.case)
        if jobs and (not args.setting or setting.name in args.setting):
            logs = (args.log_dir or folder) / setting.name
            chosen = dataclasses.replace(setting, jobs=jobs)
            measured[setting.name] = await measure(chosen, environment, model, logs)
            print(
                f"{setting.name}: {measured[setting.name].as_json()}", file=sys.stderr, flush=True
            )
    return measured


def bars(total: Verdict, measured: list[SettingResult], *, quick: bool) -> list[Bar]:
    least = 60 if quick else 1000
    never = [name for name in total.stayed if name not in total.moved]
    leaks = sum(len(each.leaked) for each in measured)
    mismatches = sum(each.mismatches for each in measured)
    preemptions = sum(each.preemptions for each in measured)
    chained = sum(number for hops, number in total.chained.items() if hops > 1)

    def none(name: str, count: int) -> Bar:
        return Bar(name, count, "0", not count)

    def some(name: str, count: int, bound: int = 1) -> Bar:
        return Bar(name, count, f">= {bound}", count >= bound)

    return [
        some("migrations that brought KV", total.moves, least),
        none("answers unlike the unmoved one", len(total.unlike)),
        none(f"of {total.controls} unmoved answers asked twice, unlike", len(total.control_unlike)),
        none("servers holding blocks at the end", leaks),
        none("replays unlike what the client had", mismatches),
        none("kinds of request never moved", len(never)),
        some("requests moved several times", chained),
        some("stop strings that straddled a cut", total.stops_straddled),
        some("preemptions", preemptions),
    ]


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="llumnix-exactness-") as folder:
        measured = asyncio.run(run_all(args, Path(folder)))
    total = Verdict()
    for each in measured.values():
        total.add(each.verdict)
    for problem in (*total.unlike, *total.control_unlike):
        print(f"unlike: {problem}", file=sys.stderr)
    figures = {name: each.as_json() for name, each in measured.items()}
    return finish(
        "vllm_exactness",
        bars(total, list(measured.values()), quick=args.quick),
        {"vllm": args.vllm, **figures},
    )


if __name__ == "__main__":
    sys.exit(main())
