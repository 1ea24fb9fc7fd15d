"""The front door: requests held, in order, and sent by the arithmetic of `policies.columns`."""

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
    BY_RANK,
    CAME,
    CLASS_COLUMNS,
    CLASSES,
    COL_BY_CLASS,
    DISPATCHED,
    EARLIEST,
    EARLIEST_OF_ALL,
    FATE,
    FIRST_HEADROOM,
    HEAD,
    HEAD_DEMAND,
    HEADROOM,
    HEAP,
    HELD,
    HELD_BACK,
    HELD_BACK_AT,
    HERE,
    IN_HEAP,
    KV,
    LINE,
    NEVER,
    NEVER_FITS,
    NEXT,
    OPEN,
    OUT,
    PHYSICAL,
    POLICY,
    PROMPT,
    QUEUE_FULL,
    QUEUE_LENGTH,
    QUEUE_LIMIT,
    QUEUED_BLOCKS,
    QUEUED_DEMAND,
    RANK,
    REJECTED,
    REPORTED,
    REPORTS,
    RESERVED,
    RESERVED_TOKENS,
    RESTARTS,
    ROW,
    RUNNING,
    RUNS,
    SEEN,
    SENT,
    SENT_REQUESTS,
    SENT_SIZE,
    SENT_TOKENS,
    SENT_WHEN,
    SHARES,
    SIZE,
    SLOT,
    SUBJECT,
    TARGET,
    TOTAL_BLOCKS,
    TURN,
    WAITING,
    WAITS,
    WHY,
    WIDTH,
    State,
)

PLACED, ASK_POLICY, ASK_SUBMIT = range(3)
"""What `place` ends with: all that can be placed is, or Python has to do something for SUBJECT."""


def arrive(s: State, r: int) -> bool:
    """Hold a request that has just come; False when it could never be served."""
    if s.req[PROMPT][r] + s.req[TARGET][r] > s.fleet[TOTAL_BLOCKS] * s.fleet[BLOCK_TOKENS]:
        reject(s, r, NEVER_FITS)
        return False
    hold(s, r)
    return True


def turn_away(s: State, r: int) -> None:
    """Reject a request that has just come and still waits, if too many do."""
    if s.fleet[HELD] > s.fleet[QUEUE_LIMIT] and s.req[FATE][r] == WAITING:
        s.fleet[HELD] -= 1
        reject(s, r, QUEUE_FULL)


def reject(s: State, r: int, why: int) -> None:
    """End a request that is not served."""
    s.req[FATE][r], s.req[WHY][r] = REJECTED, why
    s.fleet[OPEN] -= 1


def hold(s: State, r: int) -> None:
    """Put a request among those held: a binary heap, by class, arrival and index."""
    heap, at = s.req[HEAP], s.fleet[IN_HEAP]
    s.req[FATE][r] = WAITING
    rank = s.req[RANK][r]
    s.fleet[IN_HEAP] = at + 1
    s.fleet[HELD] += 1
    while at > 0:
        parent = (at - 1) // 2
        if heap[parent] < rank:
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = rank


def _first_held(s: State) -> int:
    """The request held first, or -1; those rejected meanwhile are dropped."""
    while s.fleet[IN_HEAP]:
        r: int = s.req[BY_RANK][s.req[HEAP][0]]
        if s.req[FATE][r] == WAITING:
            return r
        _pop(s)
    return -1


def _pop(s: State) -> None:
    heap, size = s.req[HEAP], s.fleet[IN_HEAP] - 1
    s.fleet[IN_HEAP] = size
    rank = heap[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= rank:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = rank


def held_tokens(s: State) -> int:
    """Sum up the tokens of all requests held."""
    tokens = 0
    for at in range(s.fleet[IN_HEAP]):
        r = s.req[BY_RANK][s.req[HEAP][at]]
        if s.req[FATE][r] == WAITING:
            tokens += s.req[PROMPT][r] + s.req[OUT][r]
    return tokens


# --- dispatch ---


def place(s: State, now_ns: int) -> int:
    """Send what can be sent now, in order; nobody overtakes."""
    while s.fleet[HELD] and takes_requests(s):
        r = _first_held(s)
        hear_of_ends(s, now_ns)
        if s.fleet[POLICY] == BY_PYTHON:
            s.fleet[SUBJECT] = r
            return ASK_POLICY
        row = decide(s, r)
        if row == HOLD:
            s.fleet[HELD_BACK], s.fleet[HELD_BACK_AT] = r, now_ns
            break
        if send(s, r, row, now_ns) == ASK_SUBMIT:
            return ASK_SUBMIT
    return PLACED


def hear_of_ends(s: State, now_ns: int) -> None:
    """Learn which requests ended that no report has seen: they are on their way no more."""
    if s.fleet[EARLIEST_OF_ALL] > now_ns:
        return
    soonest, earliest = NEVER, s.ins[EARLIEST]
    for i in range(len(earliest)):
        if earliest[i] <= now_ns:
            catch_up(s, i, now_ns)
        soonest = min(soonest, earliest[i])
    s.fleet[EARLIEST_OF_ALL] = soonest


def send(s: State, r: int, row: int, now_ns: int) -> int:
    """Send the first request held to the instance of a row, and note that it is on its way."""
    _pop(s)
    req, i = s.req, int(s.col[SLOT][row])
    s.fleet[HELD] -= 1
    s.fleet[TURN] += 1
    if s.fleet[HELD_BACK] == r:
        s.fleet[HELD_BACK] = -1
    unsend(s, r)
    req[SENT][r], req[SENT_SIZE][r] = i + 1, req[PROMPT][r] + req[OUT][r]
    req[SENT_WHEN][r] = s.fleet[REPORTS]
    s.col[SENT_TOKENS][row] += req[SENT_SIZE][r]
    s.col[SENT_REQUESTS][row] += 1
    req[FATE][r] = RUNNING
    if req[DISPATCHED][r] == 0:
        req[DISPATCHED][r] = now_ns
    if req[RESTARTS][r]:
        s.fleet[SUBJECT] = r
        return ASK_SUBMIT  # something of it may still be there
    submit(s, i, r, now_ns)
    return PLACED


# --- reports ---


def report(s: State, i: int, now_ns: int) -> None:
    """Take in how an instance stands, and that it has what was sent to it."""
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
    """Tokens to be computed before the next token comes out, decodes left out."""
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
