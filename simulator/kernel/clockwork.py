"""The event loop of a fleet laid out in columns.

Events at one time are ordered as in `simulator.events`: steps, then the network and failures
(handled in Python), arrivals, reports, decisions. Instances are advanced only when something is
asked of them; those a llumlet watches are stepped one by one, so that it sees events in order.
"""

from simulator.events import NS_PER_S
from simulator.kernel.deciding import find_pairs
from simulator.kernel.engine.counting import complete
from simulator.kernel.engine.late_arrivals import admit_late
from simulator.kernel.engine.planning import plan
from simulator.kernel.engine.stepping import catch_up, wake
from simulator.kernel.front import (
    ASK_DOOR,
    ASK_SUBMIT,
    arrive,
    hear_of_ends,
    place,
    report,
)
from simulator.kernel.state import (
    ALIVE,
    ARRIVALS_DONE,
    ARRIVED,
    BY_ARRIVAL,
    CAME,
    COPIES,
    END,
    HELD,
    HELD_BACK,
    HELD_BACK_AT,
    IDLE_AFTER,
    IDLE_SINCE,
    LOOKING,
    MIGRATION,
    NEVER,
    NEXT_REBALANCE,
    NEXT_REPORT,
    NEXT_REPORTER,
    NOTES,
    NOW,
    OPEN,
    ORDERS,
    PATIENCE,
    REBALANCE_EVERY,
    REPORT_AT,
    REPORT_EVERY,
    REQUESTS,
    RESERVATIONS,
    RESERVED_TOKENS,
    ROW,
    RUNS,
    SCALING,
    SENT_REQUESTS,
    SHOWN_S,
    SOURCE,
    STEPPING,
    SUBJECT,
    TERMINATING,
    TO_WAKE,
    WAITS,
    WATCHED,
    WATCHED_COUNT,
    WOKEN,
    WOKEN_COUNT,
    State,
)

OF_PYTHON, STEP, ARRIVAL, REPORT, DECISION = -1, 0, 3, 4, 5
"""As in `simulator.events.Priority`."""

DONE, EVENT, TELL, REBALANCE, ARRIVE, OFFER, SUBMIT, PAUSE, SCALE, DRAIN = range(10)
"""Why `run` returned: what Python must do next."""


def run(s: State, python_at: int, python_priority: int) -> int:
    """Run until every request has ended or Python must act: its next event is at `python_at`."""
    now = s.fleet
    for _ in range(s.fleet[PATIENCE]):
        if now[WOKEN_COUNT]:
            begin(s)
            if now[NOTES]:
                return TELL
        at_ns, what, who = _next(s, python_at, python_priority)
        if now[OPEN] and now[ARRIVALS_DONE] == s.fleet[REQUESTS] and now[HELD] == 0:
            _end_all_by(s, at_ns)
        if now[OPEN] == 0:
            return DONE
        no_work = now[OPEN] == s.fleet[REQUESTS] - now[ARRIVALS_DONE]
        if no_work and what >= REPORT and _skip_idle_time(s, at_ns, python_at):
            continue
        now[NOW] = at_ns
        code = _happen(s, at_ns, what, who)
        if code >= 0:
            return code
    return PAUSE


def begin(s: State) -> None:
    """Let every instance that was woken begin a step."""
    now = s.fleet
    for at in range(now[WOKEN_COUNT]):
        i = s.ins[TO_WAKE][at]
        s.ins[WOKEN][i] = 0
        if s.ins[ALIVE][i] and not s.ins[STEPPING][i]:
            plan(s, i, now[NOW])
            if s.ins[CAME][i]:
                admit_late(s, i, now[NOW])
    now[WOKEN_COUNT] = 0


def _next(s: State, python_at: int, python_priority: int) -> tuple[int, int, int]:
    """Return when the next event happens, its kind, and the instance whose step ends, or -1."""
    now = s.fleet
    at_ns, priority, what, who = python_at, python_priority, OF_PYTHON, -1
    arrived = now[ARRIVALS_DONE]
    if arrived < s.fleet[REQUESTS]:
        arrival_ns = s.req[ARRIVED][s.req[BY_ARRIVAL][arrived]]
        if arrival_ns < at_ns or (arrival_ns == at_ns and priority > ARRIVAL):
            at_ns, priority, what = arrival_ns, ARRIVAL, ARRIVAL
    report_ns = now[NEXT_REPORT]
    if report_ns < at_ns or (report_ns == at_ns and priority > REPORT):
        at_ns, priority, what = report_ns, REPORT, REPORT
    rebalance_ns = now[NEXT_REBALANCE]
    if rebalance_ns < at_ns:
        at_ns, priority, what = rebalance_ns, DECISION, DECISION
    if now[WATCHED_COUNT]:
        ends, watched, stepping = s.ins[END], s.ins[WATCHED], s.ins[STEPPING]
        for i in range(len(ends)):
            if watched[i] and stepping[i]:
                end_ns = ends[i]
                if end_ns < at_ns or (end_ns == at_ns and priority > STEP):
                    at_ns, priority, what, who = end_ns, STEP, STEP, i
    return at_ns, what, who


def _happen(s: State, at_ns: int, what: int, who: int) -> int:
    """Process the next event; return what Python must do about it, or -1."""
    now = s.fleet
    if what == OF_PYTHON:
        return EVENT
    if what == STEP:
        complete(s, who)
        wake(s, who)
        return TELL if now[NOTES] else -1
    if what == ARRIVAL:
        r = s.req[BY_ARRIVAL][now[ARRIVALS_DONE]]
        now[ARRIVALS_DONE] += 1
        return ARRIVE if arrive(s, r, at_ns) == ASK_DOOR else -1
    if what == REPORT:
        i = now[NEXT_REPORTER]
        if s.col[TERMINATING][s.ins[ROW][i]]:
            now[SUBJECT] = i
            return DRAIN
        return _asked(take_report(s, i, at_ns))
    now[NEXT_REBALANCE] += s.fleet[REBALANCE_EVERY]
    hear_of_ends(s, at_ns)
    return SCALE if s.fleet[SCALING] else rebalance(s, at_ns)


def take_report(s: State, i: int, at_ns: int) -> int:
    """Take in an instance's report, and place what now fits; return as `place` does."""
    report(s, i, at_ns)
    s.ins[REPORT_AT][i] = at_ns + s.fleet[REPORT_EVERY]
    next_report(s)
    return place(s, at_ns)


def rebalance(s: State, at_ns: int) -> int:
    """Mark the migration sources; return REBALANCE if the scheduler must be asked, or -1."""
    pairs = s.fleet[MIGRATION] and find_pairs(s, at_ns)
    return REBALANCE if pairs or s.fleet[ORDERS] or s.fleet[LOOKING] else -1


def _skip_idle_time(s: State, at_ns: int, python_at: int) -> bool:
    """Leave out reports and rebalances that could change nothing; return whether there were any.

    No request is in the fleet. Once each instance has reported so, and the fleet was rebalanced
    after that, the next ones say and decide the same until a request arrives. The last of each
    before that are carried out, since what they say of the time is looked at.
    """
    now, ins = s.fleet, s.ins
    if now[IDLE_AFTER] != now[ARRIVALS_DONE]:
        now[IDLE_AFTER], now[IDLE_SINCE] = now[ARRIVALS_DONE], at_ns
    round_ns = now[REPORT_EVERY] + now[REBALANCE_EVERY]
    if at_ns - now[IDLE_SINCE] <= 2 * round_ns or not _at_rest(s, at_ns):
        return False
    until_ns = python_at
    if now[ARRIVALS_DONE] < now[REQUESTS]:
        until_ns = min(until_ns, s.req[ARRIVED][s.req[BY_ARRIVAL][now[ARRIVALS_DONE]]])
    skip_ns = until_ns - at_ns - 2 * round_ns
    if until_ns == NEVER or skip_ns < round_ns:
        return False
    for i in range(len(ins[REPORT_AT])):
        if ins[REPORT_AT][i] != NEVER:
            ins[REPORT_AT][i] += skip_ns // now[REPORT_EVERY] * now[REPORT_EVERY]
    now[NEXT_REBALANCE] += skip_ns // now[REBALANCE_EVERY] * now[REBALANCE_EVERY]
    now[IDLE_SINCE] = at_ns + skip_ns
    next_report(s)
    return True


def _at_rest(s: State, at_ns: int) -> bool:
    """Return whether nothing is under way, nobody watches, and the last reports say so."""
    now, ins, col = s.fleet, s.ins, s.col
    if now[HELD] or now[ORDERS] or now[LOOKING] or now[SCALING] or now[WATCHED_COUNT]:
        return False
    if now[HELD_BACK] >= 0 and (at_ns - now[HELD_BACK_AT]) / NS_PER_S <= s.real[SHOWN_S]:
        return False  # the rebalance still sees it
    for i in range(len(ins[ALIVE])):
        if ins[ALIVE][i] and (ins[STEPPING][i] or ins[RESERVATIONS][i] or ins[COPIES][i]):
            return False
    for row in range(col.shape[1]):
        busy = col[RUNS][row] + col[WAITS][row] + col[SENT_REQUESTS][row]
        if busy or col[RESERVED_TOKENS][row] or col[SOURCE][row] or col[TERMINATING][row]:
            return False
    return True


def _asked(code: int) -> int:
    if code == ASK_DOOR:
        return OFFER
    return SUBMIT if code == ASK_SUBMIT else -1


def next_report(s: State) -> None:
    """Find which instance reports next; ties go to the first in order."""
    when, rows = s.ins[REPORT_AT], s.ins[ROW]
    best_ns, best = NEVER, -1
    for i in range(len(when)):
        this_ns = when[i]
        if this_ns < best_ns or (this_ns == best_ns and best >= 0 and rows[i] < rows[best]):
            best_ns, best = this_ns, i
    s.fleet[NEXT_REPORT], s.fleet[NEXT_REPORTER] = best_ns, best


def _end_all_by(s: State, at_ns: int) -> None:
    """Note that nothing more arrives, and check whether every request has ended."""
    for i in range(len(s.ins[ALIVE])):
        catch_up(s, i, at_ns)
