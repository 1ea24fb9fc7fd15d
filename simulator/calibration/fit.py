"""The linear costs that explain a server's timestamps best, by least squares.

Two fits, each linear in what it asks for. The mean step of each request's pure decoding is
explained by the mean batch and context beside it; then each stretch of steps with prompts by its
tokens, the area of its attention, and, at the costs just found, its decodes. No term may be
negative. Errors count relative to what they are errors of.

What cannot be told apart: the CPU's overhead is part of the bases. Where batch and context always
grow together, their terms share the cost somehow; costs at loads like the measured ones are right
all the same.
"""

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
from simulator.cost_model import LinearCosts

ROUNDS = 4
LEAST_ROWS = 8
BUDGETS = (512, 1024, 2048, 4096, 8192, 16_384)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted costs, and the root mean square of their relative errors in what they were fitted to.

    `decode_error` is that of a request's mean step, `prefill_error` that of steps with prompts.
    `ahead` is whether the engine seems to schedule a step while the one before is computed.
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
    """Fit costs to the requests that `use` marks; the others are still a load to them.

    What is None, the step's budget of tokens and whether steps are scheduled ahead, is taken as
    it explains the prompts best. Raises ValueError for too few requests of two tokens or more.
    """
    use = np.ones(len(measured), dtype=np.bool_) if use is None else use
    tried = [
        _fit(measured, budget, way, use)
        for way in ((False, True) if ahead is None else (ahead,))
        for budget in (BUDGETS if token_budget is None else (token_budget,))
    ]
    return min(tried, key=lambda one: one.prefill_error)


def _fit(measured: Measured, token_budget: int, ahead: bool, use: Mask) -> Fit:
    rebuilt = _rebuild(measured, token_budget, ahead, use)
    prefill, prefill_error = _fit_prompts(rebuilt, measured.first_s[~use])
    base, context, sequence = rebuilt.terms.tolist()
    costs = LinearCosts(
        prefill_base_ns=round(prefill[0] * 1e9),
        prefill_per_token_ns=round(prefill[1] * 1e9),
        prefill_quadratic_ps=round(prefill[2] * 1e12),
        decode_base_ns=round(base * 1e9),
        decode_per_context_ns=round(context * 1e9),
        decode_per_sequence_ns=round(sequence * 1e9),
    )
    return Fit(costs, token_budget, ahead, rebuilt.error, prefill_error)


def _rebuild(measured: Measured, token_budget: int, ahead: bool, use: Mask) -> _Rebuilt:
    """Find timeline and costs of decodes together: each is found better with the other."""
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
    """Fit the terms of prompts: base, per token, quadratic; not to what ends a held-out prompt."""
    prompts, load = rebuilt.prompts, rebuilt.load
    seconds = prompts.end_s - prompts.start_s
    at = np.searchsorted(load.edges_s, (prompts.start_s + prompts.end_s) / 2) - 1
    beside = prompts.steps * (
        rebuilt.terms[1] * load.contexts[at] + rebuilt.terms[2] * load.batch[at]
    )
    columns = np.column_stack([prompts.steps, prompts.tokens, prompts.squares, seconds - beside])
    run = (
        np.cumsum(prompts.start_s > np.concatenate([[-1.0], prompts.end_s[:-1]]) + SAME_EDGE_S) - 1
    )
    ending = np.searchsorted(prompts.end_s, held_out_s - SAME_EDGE_S)
    held_out = np.unique(run[np.minimum(ending, len(run) - 1)])
    runs = np.stack([np.bincount(run, column) for column in columns.T], axis=1).astype(np.float64)
    total_s = np.bincount(run, seconds)
    seen = ~np.isin(np.arange(len(runs)), held_out)
    rows = seen
    for _ in range(ROUNDS):
        terms, error = nonnegative(
            runs[rows, :3], np.maximum(0.0, runs[rows, 3]), 1.0 / total_s[rows]
        )
        # Where the decodes' base is the longer one, the prompts' own cost does not show.
        showing = seen & (runs[:, :3] @ terms >= runs[:, 0] * rebuilt.terms[0])
        if showing.sum() < LEAST_ROWS:
            break
        rows = showing
    return terms, error


def nonnegative(columns: Floats, wanted: Floats, weights: Floats) -> tuple[Floats, float]:
    """Least squares without negative terms; also gives the weighted root mean square error.

    With so few columns all subsets are tried, the best without a negative term is the solution.
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
