"""What a soak calls a fault."""

import argparse

import numpy as np

import soak
from harness import Stream
from llumnix.emulator.model.answer import expected_output


def plan(minutes: float = 30.0, *, quick: bool = False) -> "soak.Plan":
    return soak.plan_of(argparse.Namespace(minutes=minutes, quick=quick))


def seen(mb_per_min: float, more_files: int = 0) -> "soak.Seen":
    """Half an hour of a process that grows; the warm-up is steep and does not count."""
    noise = np.random.default_rng(1)
    found = soak.Seen()
    for second in range(1800):
        warm_mb = 20 * min(1.0, second / 300)
        rss_mb = 80 + warm_mb + mb_per_min * second / 60 + noise.normal(0, 0.3)
        found.samples.append((float(second), rss_mb, 50 + more_files * second // 1800))
    return found


def failed(found: "soak.Seen") -> set[str]:
    bars, _ = soak.bars_of(found, plan())
    return {bar.name for bar in bars if not bar.ok}


def test_a_leak_is_told_from_a_warm_up() -> None:
    assert failed(seen(0.0)) == set()
    assert failed(seen(0.3)) == {"RSS after warm-up, MB/min"}
    assert failed(seen(0.0, more_files=60)) == {"more open files at the end"}


def test_every_kind_of_wrong_stream_counts() -> None:
    found = seen(0.0)
    right = Stream([1, 2, 3], 8, token_ids=list(expected_output([1, 2, 3], 8)))
    short = Stream([1, 2, 3], 8, token_ids=right.token_ids[:5], error="broke off")
    other = Stream([1, 2, 3], 8, token_ids=[*right.token_ids[:7], right.token_ids[7] + 1])
    found.judge(right)
    assert failed(found) == set()
    for each in (short, other):
        found.judge(each)

    assert (len(found.broken), found.lost, found.wrong) == (1, 3, 1)
    assert failed(found) == {"streams broken", "tokens lost", "tokens wrong or doubled"}
