"""An instance's waiting line, batch and blocks: `simulator.engine.roster`, on columns."""

from simulator.kernel.engine.prefixes import begin_anew, release_blocks, take
from simulator.kernel.state import (
    AFTER_PREEMPTION,
    ALLOCATED,
    APART,
    ARRIVALS,
    AT,
    BATCH,
    BLOCK_TOKENS,
    BY_CLASS,
    CHUNK,
    CLASS,
    CLASS_COLUMNS,
    CLASSES,
    DETACHED,
    DETACHED_COUNT,
    EARLIEST,
    FITS_TOKENS,
    FREE,
    GONE,
    HEAD,
    HERE,
    INTERFERENCE,
    INTERFERENCE_AT_JOIN_NS,
    INTERFERENCE_NS,
    KV,
    LEAVING,
    LINE,
    MAX_SEQS,
    MOVING,
    NEVER,
    NEXT,
    NOTE_DETACHED,
    NOTE_PREEMPTED,
    NOTES,
    NOTES_AT,
    ORDER,
    OUT,
    PLACE,
    PREEMPTED,
    PREEMPTIONS,
    PREV,
    PROMPT,
    QUEUE_LENGTH,
    QUEUED,
    QUEUED_BLOCKS,
    REPORT_AT,
    REPORTS,
    RESERVATIONS,
    SEEN,
    SHARES,
    SIZE,
    TAIL,
    TO_WAKE,
    WAITS_FOR,
    WATCHED,
    WIDTH,
    State,
)


def free_slots(s: State, i: int) -> int:
    """Free places in the batch; detached requests and reservations hold theirs."""
    ins = s.ins
    left: int = s.fleet[MAX_SEQS] - ins[SIZE][i] - ins[DETACHED_COUNT][i] - ins[RESERVATIONS][i]
    return left


def demand_blocks(s: State, r: int) -> int:
    """Blocks that hold a request at its present length."""
    blocks: int = -(-(s.req[PROMPT][r] + s.req[OUT][r]) // s.fleet[BLOCK_TOKENS])
    return blocks


def take_blocks(s: State, i: int, r: int, blocks: int) -> None:
    """Give a request so many more blocks, which must be free."""
    if s.fleet[SHARES]:
        take(s, i, r, blocks)
        return
    s.ins[FREE][i] -= blocks
    s.ins[ALLOCATED][i] += blocks
    s.req[FITS_TOKENS][r] += blocks * s.fleet[BLOCK_TOKENS]


def free_blocks(s: State, i: int, r: int) -> None:
    """Take all of a request's blocks."""
    if s.fleet[SHARES]:
        release_blocks(s, i, r, s.req[KV][r])
        return
    held = s.req[FITS_TOKENS][r] // s.fleet[BLOCK_TOKENS]
    s.ins[FREE][i] += held
    s.ins[ALLOCATED][i] -= held
    s.req[FITS_TOKENS][r] = 0


def add_to_instance(s: State, i: int, r: int) -> None:
    """Count a request as one of this instance's."""
    ins = s.ins
    ins[ARRIVALS][i] += 1
    req = s.req
    req[AT][r], req[ORDER][r] = i, ins[ARRIVALS][i]
    req[CHUNK][r] = req[LEAVING][r] = 0
    if s.fleet[SHARES]:
        begin_anew(s, r)


def clear(s: State, i: int) -> None:
    """Reset an instance to its initial state; nothing is on its way to it any more."""
    ins = s.ins
    for column in range(len(ins)):
        if column != TO_WAKE:
            ins[column][i] = 0
    ins[REPORT_AT][i] = ins[EARLIEST][i] = NEVER
    s.fleet[REPORTS] += 1
    ins[SEEN][i] = s.fleet[REPORTS]
    for of_class in range(s.fleet[CLASSES]):
        columns = BY_CLASS + CLASS_COLUMNS * of_class
        ins[columns + HEAD][i] = ins[columns + TAIL][i] = -1


# --- the line ---


def line_head(s: State, i: int) -> int:
    """Return the request to be admitted next, or -1."""
    ins = s.ins
    if ins[QUEUE_LENGTH][i] == 0:
        return -1
    for of_class in range(s.fleet[CLASSES]):
        r: int = ins[BY_CLASS + CLASS_COLUMNS * of_class + HEAD][i]
        if r >= 0:
            return r
    return -1


def line_push(s: State, i: int, r: int, front: bool) -> None:
    """Queue a request behind, or before, all others of its class."""
    req, ins = s.req, s.ins
    columns = BY_CLASS + CLASS_COLUMNS * req[CLASS][r]
    heads, tails = ins[columns + HEAD], ins[columns + TAIL]
    req[PLACE][r] = QUEUED
    if front:
        after = heads[i]
        req[PREV][r], req[NEXT][r] = -1, after
        heads[i] = r
        if after >= 0:
            req[PREV][after] = r
        else:
            tails[i] = r
    else:
        before = tails[i]
        req[PREV][r], req[NEXT][r] = before, -1
        tails[i] = r
        if before >= 0:
            req[NEXT][before] = r
        else:
            heads[i] = r
    ins[columns + LINE][i] += 1
    ins[QUEUE_LENGTH][i] += 1
    ins[QUEUED_BLOCKS][i] += demand_blocks(s, r)


def line_remove(s: State, i: int, r: int) -> None:
    """Take a request out of the line."""
    req, ins = s.req, s.ins
    columns = BY_CLASS + CLASS_COLUMNS * req[CLASS][r]
    before, after = req[PREV][r], req[NEXT][r]
    if before >= 0:
        req[NEXT][before] = after
    else:
        ins[columns + HEAD][i] = after
    if after >= 0:
        req[PREV][after] = before
    else:
        ins[columns + TAIL][i] = before
    ins[columns + LINE][i] -= 1
    ins[QUEUE_LENGTH][i] -= 1
    ins[QUEUED_BLOCKS][i] -= demand_blocks(s, r)


# --- the batch, the most urgent first ---


def enter_batch(s: State, i: int, r: int) -> None:
    """Insert a request at its place in the batch, apart from any cohort."""
    ins, base = s.ins, i * s.fleet[WIDTH]
    _put(s, base, ins[SIZE][i], r)
    _put(s, base + s.fleet[MAX_SEQS], ins[APART][i], r)
    ins[SIZE][i] += 1
    ins[APART][i] += 1
    s.req[PLACE][r] = BATCH
    ins[BY_CLASS + CLASS_COLUMNS * s.req[CLASS][r] + HERE][i] += 1


def _put(s: State, base: int, size: int, r: int) -> None:
    places, classes, orders = s.batches, s.req[CLASS], s.req[ORDER]
    of_class, order = classes[r], orders[r]
    at = base + size
    while at > base:
        other = places[at - 1]
        if classes[other] < of_class or (classes[other] == of_class and orders[other] < order):
            break
        places[at] = other
        at -= 1
    places[at] = r


def leave_batch(s: State, i: int, r: int) -> None:
    """Remove a request that is apart from the batch, wherever in it it is."""
    ins, base = s.ins, i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    _drop(s, base, ins[APART][i], r)
    ins[APART][i] -= 1
    leave_places(s, i, r)


def leave_places(s: State, i: int, r: int) -> None:
    """Remove a request from the batch that is no longer among those apart."""
    ins = s.ins
    _drop(s, i * s.fleet[WIDTH], ins[SIZE][i], r)
    ins[SIZE][i] -= 1
    s.req[PLACE][r] = GONE
    ins[BY_CLASS + CLASS_COLUMNS * s.req[CLASS][r] + HERE][i] -= 1


def _drop(s: State, base: int, size: int, r: int) -> None:
    places, at, end = s.batches, base, base + size - 1
    while places[at] != r:
        at += 1
    while at < end:
        places[at] = places[at + 1]
        at += 1


def decoding(s: State, r: int) -> bool:
    """Whether one more token of input yields one more token of output."""
    req = s.req
    yes: bool = req[OUT][r] > 0 and req[PROMPT][r] + req[OUT][r] - req[KV][r] == 1
    return yes


def clear_up(s: State, i: int, r: int) -> None:
    """Charge a request that stops decoding with what decodes have suffered since it started."""
    if decoding(s, r):
        s.req[INTERFERENCE][r] += s.ins[INTERFERENCE_NS][i] - s.req[INTERFERENCE_AT_JOIN_NS][r]


def preempt_last(s: State, i: int) -> int:
    """Send the least urgent of the batch back to the head of its class's line, and return it.

    The whole batch must be apart.
    """
    size = s.ins[SIZE][i]
    victim: int = s.batches[i * s.fleet[WIDTH] + size - 1]
    s.ins[SIZE][i] = s.ins[APART][i] = size - 1
    s.ins[BY_CLASS + CLASS_COLUMNS * s.req[CLASS][victim] + HERE][i] -= 1
    clear_up(s, i, victim)
    free_blocks(s, i, victim)
    s.req[KV][victim] = s.req[CHUNK][victim] = s.req[LEAVING][victim] = 0
    line_push(s, i, victim, True)
    return victim


def make_room(s: State, i: int, r: int, blocks: int, now_ns: int) -> bool:
    """Preempt the least urgent until so many blocks are free; False when `r` was one of them."""
    req, free = s.req, s.ins[FREE]
    while free[i] < blocks:
        victim = preempt_last(s, i)
        req[PREEMPTIONS][victim] += 1
        req[PREEMPTED][victim] = now_ns
        req[WAITS_FOR][victim] |= AFTER_PREEMPTION
        note(s, i, NOTE_PREEMPTED, victim)
        if victim == r:
            return False
    return True


def note(s: State, i: int, what: int, r: int) -> None:
    """Leave a note for an instance's llumlet, if it watches this request."""
    if s.ins[WATCHED][i] and s.req[MOVING][r]:
        at = s.fleet[NOTES]
        first = s.fleet[NOTES_AT] + 2 * at
        s.fleet[first], s.fleet[first + 1] = what, r
        s.fleet[NOTES] = at + 1


def detach_leaving(s: State, i: int) -> None:
    """Remove the requests to be detached from the batch; they keep their blocks."""
    ins, req, base = s.ins, s.req, i * s.fleet[WIDTH]
    if not ins[WATCHED][i]:
        return
    at = 0
    while at < ins[SIZE][i]:
        r = s.batches[base + at]
        if not req[LEAVING][r]:
            at += 1
            continue
        clear_up(s, i, r)
        leave_batch(s, i, r)
        ins[BY_CLASS + CLASS_COLUMNS * req[CLASS][r] + HERE][i] += 1
        ins[DETACHED_COUNT][i] += 1
        req[PLACE][r], req[LEAVING][r] = DETACHED, 0
        note(s, i, NOTE_DETACHED, r)
