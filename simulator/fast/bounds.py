"""How short a step can be, by its costs."""

from itertools import pairwise

from simulator.cost_model import CostModel
from simulator.cost_table import Curve, TableCosts


def least_step_ns(costs: CostModel) -> int:
    """Give what a step that yields a token takes at least, whoever computes what in it."""
    if not isinstance(costs, TableCosts):
        return costs.decode_base_ns // 2  # not even the last token of a prompt costs less
    # Without decodes, the last token of a prompt may be all: what the curve of prompts rises by.
    rise_ns = _least_rise_ns(costs.prefill)
    prompts_ns = costs.prefill.at(0) + rise_ns if rise_ns >= 0 else 0
    return costs.overhead_ns + max(0, min(costs.decode_base_ns, prompts_ns))


def _least_rise_ns(curve: Curve) -> int:
    """Give what one x more adds at least; below 0 for a curve that falls somewhere."""
    pieces = zip(pairwise(curve.xs), pairwise(curve.ys), strict=True)
    rises = [(high - low) // (right - left) for (left, right), (low, high) in pieces]
    return min(0 if curve.xs[0] > 0 else rises[0], *rises) if rises else 0
