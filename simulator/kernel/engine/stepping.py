"""Advance instances to a given time: end the runs that are over, and plan new ones.

After `settle`, which precedes any change from outside, at most one step is under way.
"""

from simulator.kernel.engine.cohort import dissolve
from simulator.kernel.engine.counting import complete, split
from simulator.kernel.engine.late_arrivals import admit_late, arrive_late
from simulator.kernel.engine.planning import growth, plan
from simulator.kernel.engine.roster import add_to_instance, line_push
from simulator.kernel.engine.runs import line_at, steps_within
from simulator.kernel.state import (
    AHEAD,
    ALIVE,
    ALLOCATED,
    CAME,
    CONTEXTS,
    COST,
    DECODES,
    EARLIEST,
    EARLIEST_OF_ALL,
    END,
    FITS_TOKENS,
    KV,
    LEAST_STEP,
    OUT,
    RUN,
    START,
    STEPPING,
    TARGET,
    TO_WAKE,
    WATCHED,
    WOKEN,
    WOKEN_COUNT,
    State,
)


def submit(s: State, i: int, r: int, now_ns: int) -> None:
    """Queue a request; one that has tokens already recomputes them."""
    settle(s, i, now_ns)
    s.req[KV][r] = s.req[FITS_TOKENS][r] = 0
    if s.fleet[AHEAD]:
        arrive_late(s, i, r)
    else:
        add_to_instance(s, i, r)
        line_push(s, i, r, False)
    soonest = now_ns + (s.req[TARGET][r] - s.req[OUT][r]) * s.fleet[LEAST_STEP]
    s.ins[EARLIEST][i] = min(s.ins[EARLIEST][i], soonest)
    s.fleet[EARLIEST_OF_ALL] = min(s.fleet[EARLIEST_OF_ALL], soonest)
    wake(s, i)


def wake(s: State, i: int) -> None:
    """Wake an idle instance once the events of this moment have happened."""
    ins = s.ins
    if ins[ALIVE][i] and not ins[STEPPING][i] and not ins[WOKEN][i]:
        ins[WOKEN][i] = 1
        at = s.fleet[WOKEN_COUNT]
        s.ins[TO_WAKE][at] = i
        s.fleet[WOKEN_COUNT] = at + 1


def advance(s: State, i: int, now_ns: int) -> None:
    """Advance an unwatched instance: all steps that end by this time have ended."""
    ins = s.ins
    if ins[WATCHED][i]:
        return  # its steps are taken one by one, in turn
    catch_up(s, i, now_ns)
    if ins[STEPPING][i] and ins[RUN][i] > 1 and ins[START][i] + ins[COST][i] <= now_ns:
        split(s, i, now_ns)


def catch_up(s: State, i: int, now_ns: int) -> None:
    """End all runs that are over by this time, and so all requests; a current run is left alone."""
    ins = s.ins
    while ins[STEPPING][i] and ins[END][i] <= now_ns and not ins[WATCHED][i]:
        end_ns = ins[END][i]
        complete(s, i)
        plan(s, i, end_ns)
        if ins[CAME][i]:
            admit_late(s, i, end_ns)


def blocks_at(s: State, i: int, now_ns: int) -> int:
    """Return how many blocks requests hold at this time, while the current run continues."""
    ins = s.ins
    catch_up(s, i, now_ns)
    allocated: int = ins[ALLOCATED][i]
    elapsed_ns = now_ns - ins[START][i]
    if ins[STEPPING][i] and ins[RUN][i] > 1 and ins[COST][i] <= elapsed_ns:
        decodes, contexts = ins[DECODES][i], ins[CONTEXTS][i]
        extra, fixed, slope, per = line_at(s.cost, decodes, contexts)
        done = steps_within(
            extra, fixed, slope, per, decodes, contexts, ins[RUN][i] - 1, elapsed_ns
        )
        allocated += growth(s, i, done + 1)
    return allocated


def settle(s: State, i: int, now_ns: int) -> None:
    """Advance an instance, and let no step after the current one be planned."""
    advance(s, i, now_ns)
    ins = s.ins
    if ins[STEPPING][i] and ins[RUN][i] > 1:
        ins[RUN][i] = 1
        ins[END][i] = ins[START][i] + ins[COST][i]


def single_out(s: State, i: int, now_ns: int) -> None:
    """Settle an instance, and write all columns of its requests."""
    settle(s, i, now_ns)
    dissolve(s, i)
