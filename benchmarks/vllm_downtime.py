"""The cost of live migration between real vLLM servers, to its own client and to all others.

Two pairs of vLLM servers on this machine's CPU (8 KiB of KV per token in bf16), each behind a
frontend; one pair is set to stop-and-copy. Streams of each context length are moved, stopped and
copied, and recomputed, in turn; their client records the time of every token. Then a 4k stream is
moved between servers that decode four other streams each, and these are compared with themselves
just before: once computing all the time, once with 30 ms of every step asleep, as the CPU of a
server with a GPU is. (With both cores of a small machine in full use, some interval is ten times as
long as usual whether or not anything moves; so only the second reveals the worst case.) The source
has computed a prompt once, the destination never: its prefix cache is emptied before each move. (A
CPU without instructions for bf16 takes many times as long for a prefill in it as in fp32, which
flatters the comparison with recompute: `--dtype float32` does not.) Servers start before any clock
does (a minute or two; the test bed's environment is built at the first run); `--quick` takes about
a minute from there.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from harness import Bar, finish
from llumnix.testbed import VERSIONS, ServerOptions, ensure_environment, write_model
from llumnix.testbed.model import MID
from vllm_parts.others import OTHERS, Neighbours, summed_up
from vllm_parts.pairs import Cached, Pair, Sample, launched_pairs, moved, recomputed

CONTEXTS = (256, 1024, 2048, 4096, 8192)
BUSY_CONTEXT = 4096
QUICK_CONTEXTS, QUICK_BUSY_CONTEXT = (256, 2048), 1024
"""A prefill of 4k tokens takes ten seconds or more on CPUs without bf16 arithmetic."""
MODES: dict[str, tuple[int, Callable[[Cached, Pair, int], Awaitable[Sample]]]] = {
    "live": (0, moved),
    "stop-and-copy": (1, moved),
    "recompute": (0, recomputed),
}
"""The pair, and what is done there."""

ASLEEP_S = 0.03
COMPUTING, ASLEEP = "computing", "asleep"

Samples = dict[str, dict[int, list[Sample]]]
"""By mode and context."""

Busy = dict[str, list[Sample]]
"""Moves beside others: computing all the time, or partly asleep."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter contexts, few repeats")
    parser.add_argument("--repeats", type=int, default=7, help="moves per length and mode")
    parser.add_argument("--recomputes", type=int, default=3, help="recomputes per length")
    parser.add_argument("--busy-repeats", type=int, default=12, help="moves beside other streams")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default=MID.dtype,
        help="KV per token: bf16 8, fp32 16 KiB",
    )
    parser.add_argument("--vllm", default=VERSIONS[0], choices=VERSIONS, metavar="VERSION")
    parser.add_argument("--log-dir", type=Path, help="keep the servers' logs there")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.recomputes, args.busy_repeats = 3, 1, 3
    return args


def options(version: str, model: Path, dtype: str) -> list[ServerOptions]:
    """Describe one server of the pair that migrates live, and of the one that stops to copy."""
    live = ServerOptions(
        ensure_environment(version),
        model,
        plugin=True,
        secret=secrets.token_hex(16),
        dtype=dtype,
        blocks=2048,
        max_context=2 * CONTEXTS[-1],
    )
    return [live, replace(live, plugin_settings={"migration": {"max_stages": 0}})]


async def measure(args: argparse.Namespace, folder: Path) -> tuple[Samples, Busy]:
    contexts = QUICK_CONTEXTS if args.quick else CONTEXTS
    model = write_model(folder / "model", replace(MID, dtype=args.dtype))
    got: Samples = {mode: {context: [] for context in contexts} for mode in MODES}
    busy: Busy = {}
    logs = args.log_dir or folder
    live, stopping = options(args.vllm, model, args.dtype)
    async with launched_pairs([live, stopping], logs) as pairs:
        caches = [Cached(pair) for pair in pairs]
        for cached, pair in zip(caches, pairs, strict=True):
            await moved(cached, pair, contexts[0])  # the first finds no links between servers
        for number in range(args.repeats):
            for context in contexts:
                for mode in _turned(list(MODES), number):
                    at, measured = MODES[mode]
                    if mode == "recompute" and number >= args.recomputes:
                        continue
                    sample = await measured(caches[at], pairs[at], context)
                    got[mode][context].append(sample)
                    _say(f"{mode:<14}{context:>6} tokens", sample)
        busy[COMPUTING] = await beside_others(pairs[0], args)
    async with launched_pairs([replace(live, step_s=ASLEEP_S)], logs / ASLEEP) as pairs:
        busy[ASLEEP] = await beside_others(pairs[0], args)
    return got, busy


async def beside_others(pair: Pair, args: argparse.Namespace) -> list[Sample]:
    """Move streams between servers that decode others; the first move is not a sample."""
    context = QUICK_BUSY_CONTEXT if args.quick else BUSY_CONTEXT
    samples: list[Sample] = []
    async with Neighbours(pair) as neighbours:
        await neighbours.moved_beside(context)
        for _ in range(args.busy_repeats):
            samples.append(await neighbours.moved_beside(context))
            _say(f"beside {OTHERS} others each", samples[-1])
    return samples


def _turned(modes: list[str], number: int) -> list[str]:
    turn = number % len(modes)
    return modes[turn:] + modes[:turn]


def _say(what: str, sample: Sample) -> None:
    figures = "  ".join(f"{key} {value:.4g}" for key, value in sample.items())
    print(f"{what}  {figures}", file=sys.stderr, flush=True)


def p50(got: Samples, mode: str, context: int, what: str) -> float:
    return median(sample[what] for sample in got[mode][context])


def table(got: Samples, busy: Busy) -> None:
    """Print the figures for a reader."""
    contexts = list(got["live"])
    rows = [
        ("one interval of the stream", "live", "normal_ms"),
        ("longest wait, not moved", "live", "still_ms"),
        ("longest wait while copying, live", "live", "copying_ms"),
        ("gap, live", "live", "gap_ms"),
        ("gap less one interval, live", "live", "downtime_ms"),
        ("gap, stop-and-copy", "stop-and-copy", "gap_ms"),
        ("gap, recompute", "recompute", "gap_ms"),
        ("order to commit, live", "live", "took_ms"),
    ]
    _print(f"{'ms, p50':<34}" + "".join(f"{context:>9}" for context in contexts))
    for title, mode, what in rows:
        figures = "".join(f"{p50(got, mode, c, what):9.1f}" for c in contexts)
        _print(f"{title:<32}{figures}")
    _print(f"\n{OTHERS} others on each server, one moved: mean interval, ms")
    for how, samples in busy.items():
        for side, sums in summed_up(samples).items():
            figures = "  ".join(f"{name} {value:.3g}" for name, value in sums.items())
            _print(f"{how + ', ' + side:<24}{figures}")


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def judge(got: Samples, busy: Busy) -> list[Bar]:
    """Hold the medians against the bars of the issue."""
    contexts = list(got["live"])
    short, long = contexts[0], contexts[-1]
    gap_ms, itl_ms = p50(got, "live", long, "gap_ms"), p50(got, "live", long, "normal_ms")
    flat = gap_ms / p50(got, "live", short, "gap_ms")
    recompute = p50(got, "recompute", long, "gap_ms") / gap_ms
    bars = [
        Bar(
            f"gap at {long} tokens / interval",
            round(gap_ms / itl_ms, 2),
            "<= 2",
            gap_ms <= 2 * itl_ms,
        ),
        Bar(f"flat: gap at {long} / at {short}", round(flat, 2), "<= 2", flat <= 2),
        Bar(f"recompute / gap at {long}", round(recompute, 1), ">= 50", recompute >= 50),
    ]
    for how, samples in busy.items():
        for side, figures in summed_up(samples).items():
            ratio, worst = figures["ratio"], figures["worst / interval"]
            name = f"others at the {side}, {how}"
            bars.append(Bar(f"{name}: interval / before", round(ratio, 3), "<= 1.20", ratio <= 1.2))
            if how == ASLEEP:
                bars.append(Bar(f"{name}: worst / interval", round(worst, 2), "<= 3", worst <= 3))
    return bars


def figures_of(got: Samples, busy: Busy, args: argparse.Namespace) -> dict[str, Any]:
    whats = ("gap_ms", "downtime_ms", "normal_ms")
    return {
        "vllm": args.vllm,
        "dtype": args.dtype,
        "kv_bytes_per_token": replace(MID, dtype=args.dtype).kv_bytes_per_token,
        "repeats": args.repeats,
        "p50": {
            mode: {
                what: {c: round(p50(got, mode, c, what), 2) for c in got[mode]} for what in whats
            }
            for mode in got
        },
        "live_gaps_ms": {
            c: sorted(round(one["gap_ms"], 1) for one in rows) for c, rows in got["live"].items()
        },
        "others": {how: summed_up(samples) for how, samples in busy.items()},
    }


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="llumnix-downtime-") as folder:
        got, busy = asyncio.run(measure(args, Path(folder)))
    table(got, busy)
    return finish("vllm_downtime", judge(got, busy), figures_of(got, busy, args))


if __name__ == "__main__":
    sys.exit(main())
