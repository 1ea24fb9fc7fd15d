"""Serve the front door in the kernel: place the requests the door names, as room appears.

The door decides who waits, in which order, and who is rejected (`simulator.fleet.front_door`). It
lines up the next to be served in LINE_UP, and is asked when a request must wait. Where a request
goes is decided by the arithmetic of `policies.columns`.
"""

from policies.columns import HOLD
from simulator.kernel.deciding import decide, takes_requests
from simulator.kernel.engine.counting import unsend
from simulator.kernel.engine.late_arrivals import keep_sent
from simulator.kernel.engine.prefixes import line_demand
from simulator.kernel.engine.roster import line_head
from simulator.kernel.engine.stepping import advance, blocks_at, catch_up, submit
from simulator.kernel.state import (
    BACKLOG,
    BLOCK_TOKENS,
    BY_CLASS,
    BY_PYTHON,
    CAME,
    CLASS_COLUMNS,
    CLASSES,
    COL_BY_CLASS,
    DISPATCHED,
    DOOR_ASKS,
    EARLIEST,
    EARLIEST_OF_ALL,
    FATE,
    FIRST_HEADROOM,
    HEAD,
    HEAD_DEMAND,
    HEADROOM,
    HELD,
    HELD_BACK,
    HELD_BACK_AT,
    HERE,
    KV,
    LINE,
    LINE_UP,
    LINED_UP,
    NEVER,
    NEXT,
    OUT,
    PHYSICAL,
    POLICY,
    PROMPT,
    QUEUE_LENGTH,
    QUEUED_BLOCKS,
    QUEUED_DEMAND,
    REPORTED,
    REPORTS,
    RESERVED,
    RESERVED_TOKENS,
    RESTARTS,
    ROW,
    RUNNING,
    RUNS,
    SEEN,
    SENT_REQUESTS,
    SENT_SIZE,
    SENT_TO,
    SENT_TOKENS,
    SENT_WHEN,
    SERVED,
    SHARES,
    SIZE,
    SLOT,
    SUBJECT,
    TARGET,
    TOTAL_BLOCKS,
    TURN,
    WAITS,
    WIDTH,
    State,
)

PLACED, ASK_DOOR, ASK_SUBMIT, ASK_POLICY, WAITS_ON = range(5)
"""All placed; ask the door; queue SUBJECT at its instance; ask a policy in Python; no room."""


def arrive(s: State, r: int, now_ns: int) -> int:
    """Place a newcomer if no request waits and there is room for it; else the door takes it in."""
    s.fleet[SUBJECT] = r
    too_long = s.req[PROMPT][r] + s.req[TARGET][r] > s.fleet[TOTAL_BLOCKS] * s.fleet[BLOCK_TOKENS]
    if s.fleet[HELD] or s.fleet[DOOR_ASKS] or too_long:
        return ASK_DOOR
    return ASK_DOOR if try_place(s, r, now_ns) == WAITS_ON else PLACED


def place(s: State, now_ns: int) -> int:
    """Serve the requests the door has lined up, in its order, until one has to wait."""
    now = s.fleet
    while now[HELD] and takes_requests(s):
        if now[SERVED] == now[LINED_UP]:
            return ASK_DOOR
        code = try_place(s, s.req[LINE_UP][now[SERVED]], now_ns)
        if code == WAITS_ON:
            break
        now[SERVED] += 1
        now[HELD] -= 1
        if code == ASK_SUBMIT:
            return ASK_SUBMIT
    return PLACED


def try_place(s: State, r: int, now_ns: int) -> int:
    """Send a request to an instance that has room for it, or note that it must wait."""
    if not takes_requests(s):
        return WAITS_ON
    hear_of_ends(s, now_ns)
    if s.fleet[POLICY] == BY_PYTHON:
        return ASK_POLICY
    row = decide(s, r)
    if row == HOLD:
        s.fleet[HELD_BACK], s.fleet[HELD_BACK_AT] = r, now_ns
        return WAITS_ON
    return send(s, r, row, now_ns)


def hear_of_ends(s: State, now_ns: int) -> None:
    """Account for requests that ended before any report counted them."""
    if s.fleet[EARLIEST_OF_ALL] > now_ns:
        return
    soonest, earliest = NEVER, s.ins[EARLIEST]
    for i in range(len(earliest)):
        if earliest[i] <= now_ns:
            catch_up(s, i, now_ns)
        soonest = min(soonest, earliest[i])
    s.fleet[EARLIEST_OF_ALL] = soonest


def send(s: State, r: int, row: int, now_ns: int) -> int:
    """Send a request to the instance of a row, and count it as on its way."""
    req, i = s.req, int(s.col[SLOT][row])
    s.fleet[TURN] += 1
    if s.fleet[HELD_BACK] == r:
        s.fleet[HELD_BACK] = -1
    unsend(s, r)
    req[SENT_TO][r], req[SENT_SIZE][r] = i + 1, req[PROMPT][r] + req[OUT][r]
    req[SENT_WHEN][r] = s.fleet[REPORTS]
    s.col[SENT_TOKENS][row] += req[SENT_SIZE][r]
    s.col[SENT_REQUESTS][row] += 1
    req[FATE][r] = RUNNING
    if req[DISPATCHED][r] == 0:
        req[DISPATCHED][r] = now_ns
    if req[RESTARTS][r]:
        s.fleet[SUBJECT] = r
        return ASK_SUBMIT  # some of its KV may still be there
    submit(s, i, r, now_ns)
    return PLACED


# --- reports ---


def report(s: State, i: int, now_ns: int) -> None:
    """Take in an instance's report, which includes the requests that were sent to it."""
    ins, col, row, block_tokens = s.ins, s.col, s.ins[ROW][i], s.fleet[BLOCK_TOKENS]
    col[PHYSICAL][row] = blocks_at(s, i, now_ns) * block_tokens
    col[RESERVED_TOKENS][row] = ins[RESERVED][i] * block_tokens
    col[QUEUED_DEMAND][row] = ins[QUEUED_BLOCKS][i] * block_tokens
    col[HEAD_DEMAND][row] = 0
    head, found = line_head(s, i), 0
    if head >= 0:
        length = s.req[PROMPT][head] + s.req[OUT][head]
        col[HEAD_DEMAND][row] = -(-length // block_tokens) * block_tokens
        if s.fleet[SHARES]:
            advance(s, i, now_ns)  # what blocks hold now, and whose they are
            first, all_of_them, found = line_demand(s, i)
            col[HEAD_DEMAND][row] = first * block_tokens
            col[QUEUED_DEMAND][row] = all_of_them * block_tokens
    runs = headroom = 0
    for of_class in range(s.fleet[CLASSES]):
        columns_of = BY_CLASS + CLASS_COLUMNS * of_class
        here = ins[columns_of + HERE][i]
        col[COL_BY_CLASS + 2 * of_class][row] = here
        col[COL_BY_CLASS + 2 * of_class + 1][row] = ins[columns_of + LINE][i]
        runs += here
        if here:
            headroom += s.fleet[FIRST_HEADROOM + of_class]
    col[RUNS][row], col[HEADROOM][row] = runs, headroom
    col[WAITS][row] = ins[QUEUE_LENGTH][i]
    col[REPORTED][row] = now_ns
    if s.fleet[POLICY] == BY_PYTHON:
        col[BACKLOG][row] = _backlog(s, i) - found * block_tokens
    s.fleet[REPORTS] += 1
    ins[SEEN][i] = s.fleet[REPORTS]
    col[SENT_TOKENS][row] = col[SENT_REQUESTS][row] = 0
    ins[EARLIEST][i] = NEVER
    if ins[CAME][i]:
        keep_sent(s, i, now_ns)


def _backlog(s: State, i: int) -> int:
    """Tokens to compute before the next output token, decodes left out."""
    req, base, backlog = s.req, i * s.fleet[WIDTH], 0
    for at in range(base, base + s.ins[SIZE][i]):
        r = s.batches[at]
        left = req[PROMPT][r] + req[OUT][r] - req[KV][r]
        if left != 1 or req[OUT][r] == 0:
            backlog += left
    for of_class in range(s.fleet[CLASSES]):
        r = s.ins[BY_CLASS + CLASS_COLUMNS * of_class + HEAD][i]
        while r >= 0:
            backlog += req[PROMPT][r] + req[OUT][r]
            r = req[NEXT][r]
    return backlog
