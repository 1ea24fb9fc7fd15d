"""The cost of a step, and of a run of decode steps of one batch, in closed form.

The contexts of a batch that only decodes grow by its size with every step, and a step costs `extra
+ ceil((fixed + slope * contexts) / per)` as long as the same term of a roofline dominates, or
between two points of a table. So a run is an arithmetic series, or a sum of floors of one. All in
integers.
"""

from math import gcd, sqrt
from typing import Any

from simulator.costs.model import CostModel, LinearCosts
from simulator.costs.roofline import FS_PER_NS, MILLION, RooflineCosts
from simulator.costs.table import TableCosts
from simulator.kernel.engine.tables import chunk_ns, table_columns, table_line, table_ns

LINEAR, ROOFLINE, TABLE = range(3)
_PARTS, _SHARE = 2, 3
MOST_PARTS = 100
"""In femtoseconds; any larger, and a decode step's count would overflow 64 bits."""
WORK = 9
_GROUPS, _EXCHANGE = 6, 7
_FIRST_GROUP = _EXCHANGE + WORK


KNOWN_COSTS = (TableCosts, LinearCosts, RooflineCosts)
"""The models `cost_columns` can write; a subclass of one may cost otherwise."""


def cost_columns(costs: CostModel) -> list[int]:
    """Write a cost model as a row of numbers; raises TypeError for an unknown model."""
    if isinstance(costs, TableCosts):
        return table_columns(TABLE, costs)
    if isinstance(costs, LinearCosts):
        return [
            LINEAR,
            costs.overhead_ns,
            costs.prefill_base_ns,
            costs.prefill_per_token_ns,
            costs.prefill_quadratic_ps,
            costs.decode_base_ns,
            costs.decode_per_context_ns,
            costs.decode_per_sequence_ns,
            costs.prefill_per_sequence_ns,
        ]
    if not isinstance(costs, RooflineCosts):
        raise TypeError(f"no columns for {type(costs).__name__}")
    row = [
        ROOFLINE,
        costs.overhead_ns,
        *_overlap_columns(costs),
        costs.experts,
        costs.experts_per_token,
        len(costs.groups),
        *costs.exchange,
    ]
    for group in costs.groups:
        row += [*group.compute, *group.memory]
    return row


def _overlap_columns(costs: RooflineCosts) -> tuple[int, int]:
    """Return the overlapped share as a fraction in lowest terms; 0 parts: by group."""
    if costs.overlap == "operator":
        return 0, 0
    if isinstance(costs.overlap, str):
        return 1, int(costs.overlap == "full")
    share = round(costs.overlap * MILLION)
    common = gcd(share, MILLION)
    return MILLION // common, share // common


def chunk_sum(cost: Any, start: int, end: int) -> int:
    """Return the per-chunk term that `step_ns` wants summed, beside tokens and ends.

    That is end² - start²; for a table, the chunk's cost.
    """
    if cost[0] == TABLE:
        return chunk_ns(cost, start, end)
    return end * end - start * start


def step_ns(
    cost: Any, tokens: int, squares: int, ends: int, chunks: int, batch: int, contexts: int
) -> int:
    """Cost of a step, as `CostModel.step_ns`; of its chunks only their sums are needed.

    `squares` is the sum of `chunk_sum`.
    """
    if cost[0] == LINEAR:
        base = cost[5]
        if tokens:
            prefill = cost[2] + cost[3] * tokens + cost[4] * squares // 1000 + cost[8] * batch
            base = max(base, prefill)
        ns: int = cost[1] + base + cost[6] * contexts + cost[7] * batch
    elif cost[0] == TABLE:
        ns = table_ns(cost, tokens, squares, batch, contexts)
    else:
        fs = roofline_fs(cost, tokens, squares, ends, chunks, batch, contexts)
        ns = cost[1] - (-fs // FS_PER_NS)
    return ns


def roofline_fs(
    cost: Any, tokens: int, squares: int, ends: int, chunks: int, batch: int, contexts: int
) -> int:
    """Femtoseconds of a step by its roofline, rounded up."""
    beside, after = _bounds(cost, tokens, squares, ends, chunks, batch, contexts)
    parts, share = cost[_PARTS], cost[_SHARE]
    if parts <= 1:
        return beside if share else after
    # Part by part: the sum of all overflows 64 bits.
    whole = share * (beside // parts) + (parts - share) * (after // parts)
    rest = share * (beside % parts) + (parts - share) * (after % parts)
    fs: int = whole - (-rest // parts)
    return fs


def _bounds(
    cost: Any, tokens: int, squares: int, ends: int, chunks: int, batch: int, contexts: int
) -> tuple[int, int]:
    """Femtoseconds of a step with everything overlapped, and with nothing."""
    everything = tokens + batch
    experts = min(everything * cost[5], cost[4])
    work = (1, everything, tokens, batch, chunks + batch, squares, ends, contexts, experts)
    computing = reading = either = 0
    for group in range(cost[_GROUPS]):
        at = _FIRST_GROUP + 2 * WORK * group
        compute = _times(cost, at, work)
        memory = _times(cost, at + WORK, work)
        computing += compute
        reading += memory
        either += max(compute, memory)
    exchange = _times(cost, _EXCHANGE, work)
    if cost[_PARTS] == 0:
        return either + exchange, either + exchange
    return max(computing, reading, exchange), computing + reading + exchange


def _times(cost: Any, at: int, work: tuple[int, int, int, int, int, int, int, int, int]) -> int:
    total = 0
    for unit in range(WORK):
        total += cost[at + unit] * work[unit]
    return total


def line_at(cost: Any, batch: int, contexts: int) -> tuple[int, int, int, int]:
    """Return (extra, fixed, slope, per) of decode steps near these contexts: see the module.

    Only where `straight_steps` finds two or more.
    """
    if cost[0] == LINEAR:
        return cost[1], cost[5] + cost[7] * batch, cost[6], 1
    if cost[0] == TABLE:
        extra, fixed, slope, per, _ = table_line(cost, batch, contexts)
        return extra, fixed, slope, per
    here = _decode_parts(cost, batch, contexts)
    slope = _decode_parts(cost, batch, contexts + 1) - here  # where there are more of them
    return cost[1], here - slope * contexts, slope, FS_PER_NS * max(1, cost[_PARTS])


def _decode_parts(cost: Any, batch: int, contexts: int) -> int:
    """Femtoseconds of decodes by their roofline, in parts of one, where they are few enough."""
    beside, after = _bounds(cost, 0, 0, 0, 0, batch, contexts)
    parts, share = max(1, cost[_PARTS]), cost[_SHARE]
    fs: int = share * beside + (parts - share) * after
    return fs


def straight_steps(cost: Any, batch: int, contexts: int, steps: int) -> int:
    """Return how many of so many steps certainly lie on the line they begin on; 1 or more.

    A roofline is convex: where its line still touches it at the end, it did throughout.
    """
    if cost[0] == LINEAR:
        return steps
    if cost[0] == TABLE:
        right = table_line(cost, batch, contexts)[4]
        return max(1, min(steps, 1 + (right - contexts) // batch))
    if cost[_PARTS] > MOST_PARTS:
        return 1
    _, fixed, slope, _ = line_at(cost, batch, contexts)
    while steps > 1:
        last = contexts + batch * (steps - 1)
        if _decode_parts(cost, batch, last) == fixed + slope * last:
            return steps
        steps //= 2
    return 1


def run_ns(
    extra: int, fixed: int, slope: int, per: int, batch: int, contexts: int, steps: int
) -> int:
    """Return the cost of so many steps on a line, the first of them at these contexts."""
    first = fixed + slope * contexts
    if per == 1:
        return steps * (extra + first) + slope * batch * (steps * (steps - 1) // 2)
    return steps * extra + floor_sum(steps, per, slope * batch, first + per - 1)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum (a * j + b) // m over j in [0, n), for a, b >= 0, as Euclid would."""
    total = 0
    while n > 0:
        if a >= m:
            total += (n - 1) * n // 2 * (a // m)
            a %= m
        if b >= m:
            total += n * (b // m)
            b %= m
        top = a * n + b
        if top < m:
            break
        n, b = top // m, top % m
        m, a = a, m
    return total


def steps_within(
    extra: int,
    fixed: int,
    slope: int,
    per: int,
    batch: int,
    contexts: int,
    steps: int,
    elapsed_ns: int,
) -> int:
    """Return how many of so many steps on a line are over after a while."""
    # A guess by the quadratic formula, corrected in integers.
    first = extra + (fixed + slope * contexts) / per
    growth = slope * batch / per
    if growth > 0:
        half = first - growth / 2
        guess = int((sqrt(half * half + 2 * growth * elapsed_ns) - half) / growth)
    else:
        guess = int(elapsed_ns / max(first, 1.0))
    done = min(max(guess, 0), steps)
    while done > 0 and run_ns(extra, fixed, slope, per, batch, contexts, done) > elapsed_ns:
        done -= 1
    while (
        done < steps and run_ns(extra, fixed, slope, per, batch, contexts, done + 1) <= elapsed_ns
    ):
        done += 1
    return done
