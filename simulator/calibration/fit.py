"""The linear costs that best explain a server's timestamps, by least squares.

Two fits, each linear in its coefficients. The mean step of each request's pure decoding is
explained by the mean batch and context beside it; then each stretch of steps with prompts by its
tokens, the area of its attention, and its decodes: at the costs just found, plus their extra cost
beside prompts. No term may be negative. Errors are relative to the measured quantity.

What cannot be distinguished: the CPU's overhead is part of the bases. Where batch and context
always grow together, the split of the cost between their terms is arbitrary; costs at loads like
the measured ones are right nevertheless.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from simulator.calibration.measured import Floats, Measured
from simulator.calibration.timeline import (
    SAME_EDGE_S,
    DecodeSteps,
    Loads,
    PromptSteps,
    decode_steps,
    loads,
    prompt_steps,
    started_ahead,
)
from simulator.costs.model import LinearCosts

ROUNDS = 4
LEAST_ROWS = 8
# Huber's usual constants: errors beyond 1.345 standard deviations count linearly.
HUBER, NORMAL, HUBER_ROUNDS = 1.345, 1.4826, 8
BUDGETS = (512, 1024, 2048, 4096, 8192, 16_384)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted costs, and the size of their relative errors on the data they were fitted to.

    `decode_error` is the root mean square of those of requests' mean steps. `prefill_error` is the
    usual size of those of runs of steps with prompts: 1.48 times their median, which would be the
    root mean square if they were normally distributed, but some runs are always misread. `ahead` is
    whether the engine seems to schedule a step while the one before is computed.
    """

    costs: LinearCosts
    token_budget: int
    ahead: bool
    decode_error: float
    prefill_error: float


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A timeline, and the terms of decode steps fitted to it: base, per context, per sequence."""

    prompts: PromptSteps
    load: Loads
    terms: Floats
    error: float


def fit(
    measured: Measured,
    token_budget: int | None = None,
    ahead: bool | None = None,
    use: Mask | None = None,
) -> Fit:
    """Fit costs to the requests that `use` marks; the others only count as load.

    A None (the step's token budget, or whether steps are scheduled ahead) is chosen to explain both
    kinds of steps best. Raises ValueError when there are too few requests of two tokens or more.
    """
    use = np.ones(len(measured), dtype=np.bool_) if use is None else use
    tried = [
        _fit(measured, budget, way, use)
        for way in ((False, True) if ahead is None else (ahead,))
        for budget in (BUDGETS if token_budget is None else (token_budget,))
    ]
    return min(tried, key=lambda one: math.hypot(one.decode_error, one.prefill_error))


def _fit(measured: Measured, token_budget: int, ahead: bool, use: Mask) -> Fit:
    rebuilt = _rebuild(measured, token_budget, ahead, use)
    prefill, prefill_error = _fit_prompts(rebuilt, measured.first_s[~use])
    base, context, sequence = rebuilt.terms.tolist()
    costs = LinearCosts(
        prefill_base_ns=round(prefill[0] * 1e9),
        prefill_per_token_ns=round(prefill[1] * 1e9),
        prefill_quadratic_ps=round(prefill[2] * 1e12),
        prefill_per_sequence_ns=round(prefill[3] * 1e9),
        decode_base_ns=round(base * 1e9),
        decode_per_context_ns=round(context * 1e9),
        decode_per_sequence_ns=round(sequence * 1e9),
    )
    return Fit(costs, token_budget, ahead, rebuilt.error, prefill_error)


def _rebuild(measured: Measured, token_budget: int, ahead: bool, use: Mask) -> _Rebuilt:
    """Find the timeline and the decode costs together: each improves the other."""
    usable = use & (measured.output_tokens > 1)
    if usable.sum() < LEAST_ROWS:
        raise ValueError(
            f"{usable.sum()} requests of two tokens or more; a fit needs {LEAST_ROWS} at least"
        )
    terms = np.array([float(np.median(measured.tpot_s[usable])), 0.0, 0.0])
    started_s = measured.scheduled_s
    for _ in range(ROUNDS):
        prompts = prompt_steps(measured, started_s, token_budget)
        load = loads(measured, prompts, float(np.median(measured.tpot_s[usable])))
        load = loads(measured, prompts, _step_s(load, terms))
        terms, error = _decode_terms(decode_steps(measured, prompts, load), usable)
        if ahead:
            at = np.searchsorted(load.edges_s, measured.scheduled_s, side="right") - 1
            step_s = _step_s(load, terms)[np.clip(at, 0, len(load.batch) - 1)]
            started_s = started_ahead(measured, step_s)
    return _Rebuilt(prompts, load, terms, error)


def _step_s(load: Loads, terms: Floats) -> Floats:
    step_s = terms[0] + terms[1] * load.contexts + terms[2] * load.batch
    return np.asarray(np.maximum(1e-6, step_s))


def _decode_terms(steps: DecodeSteps, usable: Mask) -> tuple[Floats, float]:
    rows = usable & (steps.steps >= 1) & (steps.seconds > 0)
    mean_s = steps.seconds[rows] / steps.steps[rows]
    columns = np.column_stack([np.ones(rows.sum()), steps.contexts[rows], steps.batch[rows]])
    return nonnegative(columns, mean_s, np.sqrt(steps.steps[rows]) / mean_s)


def _fit_prompts(rebuilt: _Rebuilt, held_out_s: Floats) -> tuple[Floats, float]:
    """Fit the prompt terms: base, per token, quadratic, per sequence decoding beside.

    Runs of consecutive steps are explained as a whole; those in which the first token of a held-out
    request falls are left out.
    """
    prompts, load = rebuilt.prompts, rebuilt.load
    if len(prompts.steps) < LEAST_ROWS:
        raise ValueError(f"{len(prompts.steps)} steps with prompts show; a fit needs {LEAST_ROWS}")
    seconds = prompts.end_s - prompts.start_s
    at = np.searchsorted(load.edges_s, (prompts.start_s + prompts.end_s) / 2) - 1
    batch, contexts = prompts.steps * load.batch[at], prompts.steps * load.contexts[at]
    own_s = seconds - rebuilt.terms[1] * contexts - rebuilt.terms[2] * batch
    gaps = prompts.start_s[1:] > prompts.end_s[:-1] + SAME_EDGE_S
    run = np.concatenate([[0], np.cumsum(gaps)])
    if run[-1] < 2 * LEAST_ROWS:  # never idle: each stretch separately, though edges may be misread
        run = np.arange(len(seconds))
    columns = (prompts.steps, prompts.tokens, prompts.squares, batch)
    runs = np.stack([np.bincount(run, column) for column in columns], axis=1).astype(np.float64)
    wanted = np.maximum(0.0, np.bincount(run, own_s))
    total_s = np.bincount(run, seconds).astype(np.float64)
    ending = np.searchsorted(prompts.end_s, held_out_s - SAME_EDGE_S)
    seen = ~np.isin(np.arange(len(runs)), run[np.minimum(ending, len(run) - 1)])
    rows = seen
    for _ in range(ROUNDS):
        terms, error = _robust(runs[rows], wanted[rows], total_s[rows])
        # Where the decodes' base is the longer one, the prompts' own cost does not show.
        showing = seen & (runs @ terms >= runs[:, 0] * rebuilt.terms[0])
        if showing.sum() < LEAST_ROWS:
            break
        rows = showing
    return terms, error


def _robust(columns: Floats, wanted: Floats, scale: Floats) -> tuple[Floats, float]:
    """Least squares of errors relative to `scale`, the largest ones weakened (Huber's weights)."""
    trust = np.ones(len(wanted))
    for _ in range(HUBER_ROUNDS):
        terms, _error = nonnegative(columns, wanted, trust / scale)
        sizes = np.abs(wanted - columns @ terms) / scale
        usual = NORMAL * float(np.median(sizes))
        trust = np.sqrt(np.minimum(1.0, HUBER * usual / np.maximum(sizes, 1e-12)))
    return terms, usual


def nonnegative(columns: Floats, wanted: Floats, weights: Floats) -> tuple[Floats, float]:
    """Least squares without negative terms; also return the weighted root mean square error.

    With so few columns all subsets are tried; the best without a negative term is the solution.
    """
    scaled, goal = columns * weights[:, None], wanted * weights
    units = np.maximum(np.sqrt((scaled**2).sum(axis=0)), 1e-300)
    best, least = np.zeros(columns.shape[1]), float(goal @ goal)
    for size in range(1, columns.shape[1] + 1):
        for chosen in map(list, combinations(range(columns.shape[1]), size)):
            found = np.linalg.lstsq(scaled[:, chosen] / units[chosen], goal, rcond=None)[0]
            left = float(((goal - scaled[:, chosen] / units[chosen] @ found) ** 2).sum())
            if (found >= 0).all() and left < least:
                best, least = np.zeros(columns.shape[1]), left
                best[chosen] = found / units[chosen]
    mean_square = least / max(float((weights * wanted) @ (weights * wanted)), 1e-300)
    return best, float(np.sqrt(mean_square))
