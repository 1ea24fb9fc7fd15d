"""How fast KV blocks go to the staging memory and back, against a plain copy of as many bytes.

Needs torch and this repository, no vLLM. On a GPU: bytes equal, the share of a plain pinned copy's
speed, and the effect on a batch of matrix products beside it. Without one, only the copier for host
memory is measured, and the last line says so.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that nothing has to be installed

from migration.vllm.arena import SHARED_MEMORY, SUFFIX, Arena
from migration.vllm.worker.copier import CacheShape, Copier, make_copier, self_test

ORDERS = {  # memory orders of [layers, blocks, heads, tokens, content], as vLLM names them
    "LBHNC": (0, 1, 2, 3, 4),
    "LHBNC": (0, 2, 1, 3, 4),
    "BLHNC": (1, 0, 2, 3, 4),
}
MIN_SHARE = {"cpu": 0.5, "cuda": 0.8}
MAX_SLOWDOWN = 1.10


class Bar(NamedTuple):
    """A figure required by an issue (harness.py has the same, but needs more than torch)."""

    name: str
    value: float
    bar: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Model:
    """KV caches to measure with: 2 bytes per element, keys and values side by side."""

    name: str
    layers: int
    heads: int
    tokens: int
    content: int
    order: str = "LBHNC"

    @property
    def block_bytes(self) -> int:
        return self.layers * self.heads * self.tokens * self.content * 2

    def caches(self, device: str, n_bytes: int) -> tuple[Any, dict[str, Any], int]:
        """Fill about this much memory with noise, and view it layer by layer."""
        blocks = n_bytes // self.block_bytes
        shape = (self.layers, blocks, self.heads, self.tokens, self.content)
        strides, step = [0] * 5, 1
        for axis in reversed(ORDERS[self.order]):
            strides[axis] = step
            step *= shape[axis]
        raw = torch.randint(-9000, 9000, (step,), dtype=torch.int16, device=device)
        whole = raw.view(torch.bfloat16).as_strided(shape, strides)
        return raw, {f"layers.{i}": whole[i] for i in range(self.layers)}, blocks


SMALL = Model("8 KiB a token, 32 tokens a block", layers=8, heads=8, tokens=32, content=64)
MODELS = {
    "cpu": [
        SMALL,
        Model("64 KiB pages", layers=16, heads=8, tokens=16, content=256),
        Model("2 KiB pages", layers=32, heads=1, tokens=16, content=64),
        Model("a block's layers together", 8, 8, 32, 64, "BLHNC"),
        Model("heads outside blocks", 8, 8, 32, 64, "LHBNC"),
    ],
    "cuda": [
        Model("8B model, 16 tokens a block", layers=32, heads=8, tokens=16, content=256),
        Model("8B model, a quarter of it", layers=32, heads=2, tokens=16, content=256),
        Model("8B model, layers together", 32, 8, 16, 256, "BLHNC"),
        Model("8B model, heads outside", 32, 8, 16, 256, "LHBNC"),
    ],
}


@contextmanager
def staging(slots: int, block_bytes: int) -> Iterator[Arena]:
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    with Arena.create(folder / f"bench-{os.getpid()}{SUFFIX}", slots, block_bytes) as arena:
        yield arena


def seconds(
    works: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Take the median time of each piece of work, done in turns, including the device's part.

    On the host it is this thread's own time: other processes may be busy on the machine.
    """
    clock = time.perf_counter if device == "cuda" else time.thread_time
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 2):
        for name, work in works.items():
            synchronize(device)
            start_s = clock()
            work()
            synchronize(device)
            times[name].append(clock() - start_s)
    return {name: statistics.median(taken[2:]) for name, taken in times.items()}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def wrong_bytes(copier: Copier, kv: dict[str, Any], blocks: int) -> int:
    """Move half of the blocks that fit the slots to other places; count bytes that differ."""
    n = min(copier.slots, blocks // 2)
    chosen = random.sample(range(blocks), 2 * n)
    sources, destinations = chosen[:n], chosen[n:]
    slots = random.sample(range(copier.slots), n)
    device = next(iter(kv.values())).device
    index = [torch.tensor(one, device=device) for one in (sources, destinations)]
    expected = {name: cache.view(torch.int16)[index[0]] for name, cache in kv.items()}
    copier.wait(copier.gather(sources, slots))
    copier.wait(copier.scatter(slots, destinations))
    return sum(
        2 * int((cache.view(torch.int16)[index[1]] != expected[name]).sum())
        for name, cache in kv.items()
    )


def speeds(copier: Copier, raw: Any, blocks: int, n: int, repeats: int) -> dict[str, float]:
    """Copy n random blocks; and as many bytes in one plain copy, from and to such memory too."""
    device = raw.device.type
    n_bytes = n * copier.shape.block_bytes
    flat = raw.view(torch.uint8)
    if device == "cuda":
        host = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
    else:
        host = torch.frombuffer(copier.buffer, dtype=torch.uint8)[:n_bytes]

    def part() -> Any:
        at = random.randrange(flat.numel() - n_bytes + 1)
        return flat[at : at + n_bytes]

    def ids() -> list[int]:
        return random.sample(range(blocks), n)

    slots = list(range(n))
    measured = {
        "plain_out": lambda: host.copy_(part(), non_blocking=True),
        "plain_in": lambda: part().copy_(host, non_blocking=True),
        "gather": lambda: copier.wait(copier.gather(ids(), slots)),
        "scatter": lambda: copier.wait(copier.scatter(slots, ids())),
    }
    taken = seconds(measured, repeats, device)
    gb_s = {f"{name}_gb_s": n_bytes / time_s / 1e9 for name, time_s in taken.items()}
    return {
        **{name: round(value, 2) for name, value in gb_s.items()},
        "gather_share": round(taken["plain_out"] / taken["gather"], 3),
        "scatter_share": round(taken["plain_in"] / taken["scatter"], 3),
    }


def overlap(copier: Copier, blocks: int, n: int, repeats: int) -> dict[str, float]:
    """Run matrix products with and without gathers and scatters beside them."""
    left, right, out = (torch.randn(4096, 4096, device="cuda").bfloat16() for _ in range(3))
    half = n // 2
    chosen, slots = random.sample(range(blocks), 2 * half), list(range(2 * half))
    alone: list[float] = []
    beside: list[float] = []

    def products() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(60):
            torch.mm(left, right, out=out)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def copies() -> None:
        for _ in range(4):
            copier.gather(chosen[:half], slots[:half])
            copier.scatter(slots[half:], chosen[half:])

    def together() -> None:
        copies()
        beside.append(products())

    works = {"alone": lambda: alone.append(products()), "copies": copies, "together": together}
    alone_s, copies_s, together_s = seconds(works, repeats, "cuda").values()
    slower = statistics.median(beside[2:]) / statistics.median(alone[2:]) - 1
    hidden = (alone_s + copies_s - together_s) / min(alone_s, copies_s)
    return {
        "products_ms": round(alone_s * 1e3, 3),
        "copies_ms": round(copies_s * 1e3, 3),
        "together_ms": round(together_s * 1e3, 3),
        "products_slowdown_while_copying": round(1 + slower / min(1.0, copies_s / alone_s), 4),
        "hidden_share_of_copies": round(hidden, 3),
    }


def measure(device: str, quick: bool) -> tuple[list[Bar], dict[str, Any]]:
    bars: list[Bar] = []
    figures: dict[str, Any] = {}
    cache_bytes = (1 << 30) if device == "cuda" else (256 << 20)
    stage_bytes, repeats = (32 << 20, 5) if quick else (64 << 20, 25)
    for number, model in enumerate(MODELS[device]):
        raw, kv, blocks = model.caches(device, cache_bytes)
        shape = CacheShape.probe(kv, blocks)
        most = stage_bytes // shape.block_bytes
        with staging(most, shape.block_bytes) as arena:
            copier = make_copier(kv, blocks, arena.buffer)
            self_test(copier)
            wrong = wrong_bytes(copier, kv, blocks)
            table = {
                f"{n * shape.block_bytes >> 10} KiB": speeds(copier, raw, blocks, n, repeats)
                for n in sorted({1, max(1, most // 8), most})
            }
            bars.append(Bar(f"{device}, {model.name}: wrong bytes", wrong, "0", wrong == 0))
            if number == 0:
                bars += _share_bars(device, model, list(table.values())[-1])
            figures[model.name] = table
            if device == "cuda" and number == 0:
                figures["overlap"] = overlap(copier, blocks, most, repeats)
                bars += _overlap_bars(figures["overlap"])
            copier.close()
        print(f"{device}, {model.name}: {figures[model.name]}", file=sys.stderr, flush=True)
    return bars, figures


def _share_bars(device: str, model: Model, figures: dict[str, float]) -> list[Bar]:
    return [
        Bar(
            f"{device}, {model.name}: {way}'s share of a plain copy's speed",
            figures[f"{way}_share"],
            f">= {MIN_SHARE[device]}",
            figures[f"{way}_share"] >= MIN_SHARE[device],
        )
        for way in ("gather", "scatter")
    ]


def _overlap_bars(figures: dict[str, float]) -> list[Bar]:
    slowdown = figures["products_slowdown_while_copying"]
    hidden = figures["hidden_share_of_copies"]
    name = "matrix products' time while copying / alone"
    return [
        Bar(name, slowdown, f"<= {MAX_SLOWDOWN}", slowdown <= MAX_SLOWDOWN),
        Bar("share of the copies hidden behind them", hidden, ">= 0.8", hidden >= 0.8),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats, smaller stages, < 30 s"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the host's copier has one
    bars, figures = measure("cpu", args.quick)
    result: dict[str, Any] = {"cpu": figures}
    if torch.cuda.is_available():
        more, result["cuda"] = measure("cuda", args.quick)
        bars += more
    else:
        result["cuda"] = "not measured: no GPU at hand"
        print("no GPU at hand: only the copier for host memory was measured", file=sys.stderr)
    print(
        json.dumps(
            {
                "benchmark": "vllm_copier",
                "machine": {
                    "cores": len(os.sched_getaffinity(0)),
                    "torch": torch.__version__,
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                },
                "figures": result,
                "bars": [bar._asdict() for bar in bars],
            }
        )
    )
    return 0 if all(bar.ok for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
