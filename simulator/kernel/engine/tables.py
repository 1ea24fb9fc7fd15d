"""Step costs from a table, on a row of integers: `simulator.costs.table`, to the same figures.

A row holds the kind, the overhead, the fastest decode step, the prompt cost at no token, and where
the prompt curve begins; then the batch sizes, how many first, and where the curve of each begins. A
curve is its number of points, their xs, and their ys.
"""

from typing import Any

from simulator.costs.table import Curve, TableCosts

FAR = 1 << 60
"""Beyond all contexts."""
_OVERHEAD, _BASE, _INTERCEPT, _PROMPTS, _SIZES = range(1, 6)


def table_columns(kind: int, costs: TableCosts) -> list[int]:
    """Write a table as a row of numbers that begins with `kind`."""
    sizes = len(costs.batch_sizes)
    starts, curves = [], list[int]()
    for curve in (costs.prefill, *costs.decode):
        starts.append(_SIZES + 1 + 2 * sizes + len(curves))
        curves += _curve_columns(curve)
    head = [kind, costs.overhead_ns, costs.decode_base_ns, costs.prefill.at(0), starts[0]]
    return [*head, sizes, *costs.batch_sizes, *starts[1:], *curves]


def _curve_columns(curve: Curve) -> list[int]:
    return [len(curve.xs), *curve.xs, *curve.ys]


def table_ns(cost: Any, tokens: int, added_ns: int, batch: int, contexts: int) -> int:
    """Cost of a step in which something is computed, as `TableCosts.step_ns`.

    `added_ns` is what its chunks add to their prompts: see `chunk_ns`.
    """
    decode_ns = _decode_ns(cost, batch, contexts) if batch else 0
    ns: int = cost[_OVERHEAD] + decode_ns
    if tokens:
        whole_ns = cost[_INTERCEPT] + added_ns + max(0, decode_ns - cost[_BASE])
        ns += max(0, whole_ns - decode_ns)
    return ns


def chunk_ns(cost: Any, start: int, end: int) -> int:
    """What a chunk adds: the cost of its prompt up to its end, less that up to its start."""
    return _curve_at(cost, cost[_PROMPTS], end) - _curve_at(cost, cost[_PROMPTS], start)


def table_line(cost: Any, batch: int, contexts: int) -> tuple[int, int, int, int, int]:
    """Return (extra, fixed, slope, per) of decode steps from these contexts on, and where it ends.

    This holds for a batch decided by one curve, where it does not fall. For others the end is 0:
    the value interpolated between two curves is rounded again, and is not linear.
    """
    curve = _only_curve(cost, batch)
    if curve < 0:
        return 0, 0, 0, 1, 0
    left, height, rise, width, right = _piece(cost, curve, contexts)
    # Rounding down is rounding up, less all but one of the parts.
    fixed = 1 - width - rise * left
    return cost[_OVERHEAD] + height, fixed, rise, width, right if rise >= 0 else 0


def _only_curve(cost: Any, batch: int) -> int:
    """Return where the curve is that alone decides what this batch costs, or -1."""
    sizes = cost[_SIZES]
    at = _SIZES + 1 + _last_up_to(cost, _SIZES + 1, sizes, batch)
    if sizes == 1 or batch <= cost[at]:
        start: int = cost[at + sizes]
        return start
    return -1


def _decode_ns(cost: Any, batch: int, contexts: int) -> int:
    """Read the table between batch sizes, or extrapolate from the last two."""
    curve = _only_curve(cost, batch)
    if curve >= 0:
        return _curve_at(cost, curve, contexts)
    sizes = cost[_SIZES]
    found = _last_up_to(cost, _SIZES + 1, sizes, batch)
    beyond = found == sizes - 1
    lower = _SIZES + (found if beyond else found + 1)
    low_ns = _curve_at(cost, cost[lower + sizes], contexts)
    high_ns = _curve_at(cost, cost[lower + 1 + sizes], contexts)
    low, high = cost[lower], cost[lower + 1]
    rise_ns, start_ns, start = high_ns - low_ns, low_ns, low
    if beyond:
        rise_ns, start_ns, start = max(0, rise_ns), high_ns, high
    ns: int = start_ns + rise_ns * (batch - start) // (high - low)
    return ns


def _curve_at(cost: Any, curve: int, x: int) -> int:
    left, height, rise, width, _ = _piece(cost, curve, x)
    return height + rise * (x - left) // width


def _piece(cost: Any, curve: int, x: int) -> tuple[int, int, int, int, int]:
    """Return the piece of a curve that starts at x: its left end and height, its rise, its width.

    The last number is the piece's right end.
    """
    points = cost[curve]
    xs, ys = curve + 1, curve + 1 + points
    if points == 1 or x < cost[xs]:
        return 0, cost[ys], 0, 1, FAR if points == 1 else cost[xs]
    at = _last_up_to(cost, xs, points, x)
    if at == points - 1:
        rise = max(0, cost[ys + at] - cost[ys + at - 1])
        return cost[xs + at], cost[ys + at], rise, cost[xs + at] - cost[xs + at - 1], FAR
    rise, width = cost[ys + at + 1] - cost[ys + at], cost[xs + at + 1] - cost[xs + at]
    return cost[xs + at], cost[ys + at], rise, width, cost[xs + at + 1]


def _last_up_to(cost: Any, first: int, count: int, x: int) -> int:
    """Return which of so many ascending numbers is the last that is not above x; else the first."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if cost[first + middle] <= x:
            low = middle
        else:
            high = middle
    return low
