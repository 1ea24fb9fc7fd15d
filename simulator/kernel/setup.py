"""Put a fleet's settings and workload into columns; refuse what the kernel does not support."""

from collections.abc import Sequence

import numpy as np

from policies.dispatch import FreenessParams, dispatch_policies
from policies.moves.proposers import DEFAULT_MOVES
from policies.scheduler import SchedulerConfig
from simulator.engine.speculation import MOST_GUESSES
from simulator.events import NS_PER_S
from simulator.fleet.instance import PER_MILLE, InstanceShape
from simulator.fleet.options import SimulatorConfig
from simulator.kernel.engine.bounds import least_step_ns, longest_step_ns
from simulator.kernel.engine.keys import with_keys
from simulator.kernel.engine.runs import KNOWN_COSTS, cost_columns
from simulator.kernel.lives import name_of
from simulator.kernel.state import (
    AHEAD,
    BY_FREENESS,
    BY_LOAD,
    BY_PYTHON,
    BY_REQUESTS,
    COHORTS,
    DOOR_ASKS,
    DRAFT_TOKENS,
    DRAFTING_NS,
    FIRST_HEADROOM,
    GROWTH_STEPS,
    GUESSED,
    HIGH_STEPS,
    IN_TURN,
    LATE_BINDING,
    LEAST_STEP,
    LOW_STEPS,
    MIGRATION,
    NEXT_REBALANCE,
    PATIENCE,
    POLICY,
    REBALANCE_EVERY,
    RELEASE_STEPS,
    REPORT_EVERY,
    SCALING,
    SHOWN_S,
    SLOWDOWN,
    State,
    new_state,
    tell,
)
from simulator.workload.request import TraceRequest

KNOWN_POLICIES = {
    "freeness": BY_FREENESS,
    "load-aware": BY_LOAD,
    "least-requests": BY_REQUESTS,
    "round-robin": IN_TURN,
}
PLAIN_TURNS, COMPILED_TURNS = 4_000, 100_000


def refusal(config: SimulatorConfig, scheduler: SchedulerConfig) -> str | None:
    """Return why this fleet must be walked step by step; None if it need not be."""
    shape = config.shape(len(scheduler.classes))
    if type(shape.costs) not in KNOWN_COSTS:
        return f"the kernel cannot price {type(shape.costs).__name__}"
    if config.report_interval_s > min(scheduler.ledger_timeout_s, scheduler.max_age_s):
        return "its reports come too late for the scheduler's timeouts"
    if shape.schedules_ahead and _longest_wait_s(config, shape) > scheduler.ledger_timeout_s:
        return "it schedules ahead, and the ledger may forget a request before a report counts it"
    if scheduler.moves != DEFAULT_MOVES:
        return "its moves are not the default ones (drain and rebalance)"
    if config.draft_tokens > MOST_GUESSES:
        return f"it speculates more than {MOST_GUESSES} tokens ahead"
    return None


def _longest_wait_s(config: SimulatorConfig, shape: InstanceShape) -> float:
    """Bound how long a request scheduled ahead stays unreported: a step, a copy, and more."""
    speculation = None if shape.guesses is None else shape.guesses.speculation
    step_ns = longest_step_ns(shape.costs, shape.limits, speculation)
    step_ns += step_ns * shape.slowdown_per_mille // PER_MILLE
    return config.report_interval_s + step_ns / NS_PER_S


def set_up(
    config: SimulatorConfig,
    scheduler: SchedulerConfig,
    shape: InstanceShape,
    requests: Sequence[TraceRequest],
    *,
    arrays: bool,
) -> State:
    """Put a fleet that has not begun, and its workload, into columns.

    Raises ValueError for a request of an unknown class.
    """
    names = [known.name for known in scheduler.classes]
    for request in requests:
        if request.class_name not in names:
            known = ", ".join(names)
            raise ValueError(
                f"request {request.index} is of class {request.class_name!r}; known: {known}"
            )
    columns = (
        [request.prompt_tokens for request in requests],
        [request.output_tokens for request in requests],
        [names.index(request.class_name) for request in requests],
        [round(request.arrival_s * NS_PER_S) for request in requests],
    )
    cost = cost_columns(shape.costs)
    state = new_state(columns, config.instances, shape.limits, cost, arrays=arrays)
    if config.prefix_caching:
        state = with_keys(state, requests)
    par, real, rebalance = state.fleet, state.real, scheduler.rebalance
    par[SLOWDOWN] = shape.slowdown_per_mille
    par[REPORT_EVERY] = round(config.report_interval_s * NS_PER_S)
    par[REBALANCE_EVERY] = round(rebalance.interval_s * NS_PER_S)
    par[MIGRATION] = int(scheduler.migration)
    par[LEAST_STEP] = least_step_ns(shape.costs) // (1 + config.draft_tokens)
    par[AHEAD], par[SCALING] = int(shape.schedules_ahead), int(config.scaling.on)
    par[PATIENCE] = COMPILED_TURNS if arrays else PLAIN_TURNS
    for number, known_class in enumerate(scheduler.classes):
        par[FIRST_HEADROOM + number] = known_class.headroom_tokens
    state.fleet[NEXT_REBALANCE] = par[REBALANCE_EVERY]
    real[LOW_STEPS], real[RELEASE_STEPS] = rebalance.low_steps, rebalance.release_steps
    real[HIGH_STEPS], real[SHOWN_S] = rebalance.high_steps, scheduler.max_age_s
    _set_policy(state, scheduler)
    return state if shape.guesses is None else _draw_guesses(state, shape, requests)


def _draw_guesses(state: State, shape: InstanceShape, requests: Sequence[TraceRequest]) -> State:
    """Draw beforehand which guesses are right; requests that never fit get none."""
    guesses = shape.guesses
    assert guesses is not None
    state.fleet[COHORTS] = 0
    state.fleet[DRAFT_TOKENS] = guesses.speculation.draft_tokens
    state.fleet[DRAFTING_NS] = guesses.speculation.drafting_ns
    outputs, begins = [], 8 * len(state.prompt_keys)
    for position, request in enumerate(requests):
        state.req[GUESSED][position] = begins
        if request.prompt_tokens + request.output_tokens <= shape.limits.usable_tokens:
            outputs.append((name_of(request), request.output_tokens))
            begins += request.output_tokens
    right = guesses.all_right(outputs)
    right.extend(bytes(-len(right) % 8))
    return tell(state, np.frombuffer(right, dtype="<i8"))[0]


def _set_policy(state: State, scheduler: SchedulerConfig) -> None:
    spec = scheduler.dispatch
    state.fleet[POLICY] = KNOWN_POLICIES.get(spec.name, BY_PYTHON)
    state.fleet[DOOR_ASKS] = int(state.fleet[POLICY] == BY_PYTHON)
    params = dispatch_policies.params(spec.name)(**spec.params)
    if isinstance(params, FreenessParams):
        state.fleet[LATE_BINDING] = int(params.late_binding)
        state.real[GROWTH_STEPS] = params.growth_steps
