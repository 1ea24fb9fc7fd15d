"""Bounds on the duration of a step, by its costs."""

from collections.abc import Iterator
from itertools import pairwise

from simulator.costs.model import CostModel
from simulator.costs.table import Curve, TableCosts
from simulator.engine.roster import EngineLimits
from simulator.engine.speculation import Speculation


def least_step_ns(costs: CostModel) -> int:
    """Return the least duration of a step that yields a token, whatever it computes."""
    if not isinstance(costs, TableCosts):
        return costs.decode_base_ns // 2  # not even the last token of a prompt costs less
    # Without decodes, a step may compute only a prompt's last token: the least rise of the curve.
    rise_ns = _least_rise_ns(costs.prefill)
    prompts_ns = costs.prefill.at(0) + rise_ns if rise_ns >= 0 else 0
    return costs.overhead_ns + max(0, min(costs.decode_base_ns, prompts_ns))


def longest_step_ns(
    costs: CostModel, limits: EngineLimits, speculation: Speculation | None = None
) -> int:
    """Return an upper bound on any step: a full batch, full memory, and the whole token budget."""
    guesses = 0 if speculation is None else speculation.draft_tokens * limits.max_num_seqs
    drafting_ns = 0 if speculation is None else speculation.drafting_ns
    return drafting_ns + _longest_ns(costs, limits, limits.max_num_seqs + guesses)


def _longest_ns(costs: CostModel, limits: EngineLimits, most_chunks: int) -> int:
    budget, contexts, batch = limits.token_budget, limits.usable_tokens, limits.max_num_seqs
    if isinstance(costs, TableCosts):
        return (
            _longest_by_table_ns(costs, budget, contexts, batch) + most_chunks
        )  # each is rounded twice
    # A token costs most at the end of the longest context, where every chunk may end: here one has
    # all tokens, ending beyond that, and the others cost what an empty chunk does.
    chunks = [(contexts, budget), *((contexts, 0) for _ in range(most_chunks - 1))]
    return costs.step_ns(chunks, batch, contexts)


def _longest_by_table_ns(costs: TableCosts, budget: int, contexts: int, batch: int) -> int:
    decodes_ns = max(max(*curve.ys, curve.at(contexts)) for curve in costs.decode)
    if batch > costs.batch_sizes[-1] and len(costs.batch_sizes) > 1:
        left, right = costs.batch_sizes[-2:]
        decodes_ns += decodes_ns * (batch - right) // (right - left)
    rises = [0, *(-(-up // across) for across, up in _pieces(costs.prefill))]
    prompts_ns = costs.prefill.at(0) + max(rises) * budget
    return costs.overhead_ns + decodes_ns + prompts_ns


def _pieces(curve: Curve) -> Iterator[tuple[int, int]]:
    """Return the width of each piece of a curve, and its rise."""
    for (left, right), (low, high) in zip(pairwise(curve.xs), pairwise(curve.ys), strict=True):
        yield right - left, high - low


def _least_rise_ns(curve: Curve) -> int:
    """Return the least that one more x adds; negative for a curve that falls somewhere."""
    rises = [up // across for across, up in _pieces(curve)]
    return min(0 if curve.xs[0] > 0 else rises[0], *rises) if rises else 0
