"""Requests that arrive while a step is under way, where steps are scheduled ahead.

As in `simulator.fleet.instance`: the next step was planned when the current one began, so a request
that arrives meanwhile is queued only when it begins, and until then it is in no report.
"""

from simulator.kernel.engine.planning import plan
from simulator.kernel.engine.roster import add_to_instance, line_push
from simulator.kernel.state import (
    AT,
    CAME,
    CHUNK,
    COMING,
    EARLIEST,
    FIRST_CAME,
    LAST_CAME,
    LEAST_STEP,
    LEAVING,
    NEXT,
    OUT,
    PLACE,
    REPORTS,
    ROW,
    SENT_REQUESTS,
    SENT_SIZE,
    SENT_TOKENS,
    SENT_WHEN,
    STEPPING,
    TARGET,
    State,
)


def arrive_late(s: State, i: int, r: int) -> None:
    """Accept a request; it is queued at once only if no step is under way."""
    ins, req = s.ins, s.req
    req[AT][r], req[PLACE][r] = i, COMING
    req[CHUNK][r] = req[LEAVING][r] = 0
    if ins[CAME][i]:
        req[NEXT][ins[LAST_CAME][i]] = r
    else:
        ins[FIRST_CAME][i] = r
    ins[LAST_CAME][i] = r
    ins[CAME][i] += 1
    if not ins[STEPPING][i]:
        _queue(s, i)


def admit_late(s: State, i: int, now_ns: int) -> None:
    """Queue the requests that came during the last step, now that the one after it is planned.

    Where there was nothing to plan, they are not too late.
    """
    _queue(s, i)
    if not s.ins[STEPPING][i]:
        plan(s, i, now_ns)


def _queue(s: State, i: int) -> None:
    r = s.ins[FIRST_CAME][i]
    for _ in range(s.ins[CAME][i]):
        after = s.req[NEXT][r]
        add_to_instance(s, i, r)
        line_push(s, i, r, False)
        r = after
    s.ins[CAME][i] = 0


def keep_sent(s: State, i: int, now_ns: int) -> None:
    """Keep counting as sent the requests that a report, just taken in, did not include."""
    req, ins, col, row = s.req, s.ins, s.col, s.ins[ROW][i]
    col[SENT_REQUESTS][row] = ins[CAME][i]
    r = ins[FIRST_CAME][i]
    for _ in range(ins[CAME][i]):
        req[SENT_WHEN][r] = s.fleet[REPORTS]
        col[SENT_TOKENS][row] += req[SENT_SIZE][r]
        soonest = now_ns + (req[TARGET][r] - req[OUT][r]) * s.fleet[LEAST_STEP]
        ins[EARLIEST][i] = min(ins[EARLIEST][i], soonest)
        r = req[NEXT][r]


def arrived_late(s: State, i: int) -> list[int]:
    """List the requests that arrived and are not queued, in order."""
    came, r = [], s.ins[FIRST_CAME][i]
    for _ in range(s.ins[CAME][i]):
        came.append(int(r))
        r = s.req[NEXT][r]
    return came
