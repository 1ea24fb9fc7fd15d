"""What steps cost, and what a run of decode steps of one batch costs together, in closed form.

A batch that only decodes has contexts that grow by its size with every step, and a step costs
`extra + ceil((fixed + slope * contexts) / per)` as long as the same term of a roofline is the
largest. So a run is an arithmetic series, or a sum of floors of one. All in whole numbers.
"""

from math import sqrt
from typing import Any

from simulator.cost_model import CostModel, LinearCosts
from simulator.roofline import FS_PER_NS, RooflineCosts

LINEAR, ROOFLINE = range(2)
_FULL, _NONE, _BY_GROUP = range(3)
_OVERLAPS = {"full": _FULL, "none": _NONE}
WORK = 9
_GROUPS, _EXCHANGE = 5, 6
_FIRST_GROUP = _EXCHANGE + WORK


def cost_columns(costs: CostModel) -> list[int] | None:
    """Write a cost model as a row of numbers; None for one that has no closed form here."""
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
    if not isinstance(costs, RooflineCosts) or not isinstance(costs.overlap, str):
        return None  # what is rounded after it was mixed lies on no line
    row = [
        ROOFLINE,
        costs.overhead_ns,
        _OVERLAPS.get(costs.overlap, _BY_GROUP),
        costs.experts,
        costs.experts_per_token,
        len(costs.groups),
        *costs.exchange,
    ]
    for group in costs.groups:
        row += [*group.compute, *group.memory]
    return row


def step_ns(
    cost: Any, tokens: int, squares: int, ends: int, chunks: int, batch: int, contexts: int
) -> int:
    """Cost of a step, as `CostModel.step_ns`; of its chunks only their sums are needed."""
    if cost[0] == LINEAR:
        base = cost[5]
        if tokens:
            prefill = cost[2] + cost[3] * tokens + cost[4] * squares // 1000 + cost[8] * batch
            base = max(base, prefill)
        ns: int = cost[1] + base + cost[6] * contexts + cost[7] * batch
    else:
        fs = roofline_fs(cost, tokens, squares, ends, chunks, batch, contexts)
        ns = cost[1] - (-fs // FS_PER_NS)
    return ns


def roofline_fs(
    cost: Any, tokens: int, squares: int, ends: int, chunks: int, batch: int, contexts: int
) -> int:
    """Femtoseconds of a step by its roofline."""
    everything = tokens + batch
    experts = min(everything * cost[4], cost[3])
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
    if cost[2] == _FULL:
        return max(computing, reading, exchange)
    if cost[2] == _NONE:
        return computing + reading + exchange
    return either + exchange


def _times(cost: Any, at: int, work: tuple[int, int, int, int, int, int, int, int, int]) -> int:
    total = 0
    for unit in range(WORK):
        total += cost[at + unit] * work[unit]
    return total


def line_at(cost: Any, batch: int, contexts: int) -> tuple[int, int, int, int]:
    """Give (extra, fixed, slope, per) of decode steps about these contexts: see the module."""
    if cost[0] == LINEAR:
        return cost[1], cost[5] + cost[7] * batch, cost[6], 1
    here = roofline_fs(cost, 0, 0, 0, 0, batch, contexts)
    slope = _slope(cost, batch, contexts)
    return cost[1], here - slope * contexts, slope, FS_PER_NS


def _slope(cost: Any, batch: int, contexts: int) -> int:
    """Femtoseconds a token of context adds, on the side where there are more of them."""
    return roofline_fs(cost, 0, 0, 0, 0, batch, contexts + 1) - roofline_fs(
        cost, 0, 0, 0, 0, batch, contexts
    )


def straight_steps(cost: Any, batch: int, contexts: int, steps: int) -> int:
    """Say how many of so many steps certainly lie on the line they begin on; 1 or more.

    A roofline is convex: where its line still touches it at the end, it did all the way.
    """
    if cost[0] == LINEAR:
        return steps
    _, fixed, slope, _ = line_at(cost, batch, contexts)
    while steps > 1:
        last = contexts + batch * (steps - 1)
        if roofline_fs(cost, 0, 0, 0, 0, batch, last) == fixed + slope * last:
            return steps
        steps //= 2
    return 1


def run_ns(
    extra: int, fixed: int, slope: int, per: int, batch: int, contexts: int, steps: int
) -> int:
    """Cost of so many steps on a line, the first of them at these contexts."""
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
    """Say how many of so many steps on a line are over after a while."""
    # A guess by the quadratic formula, which whole numbers then put right.
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
