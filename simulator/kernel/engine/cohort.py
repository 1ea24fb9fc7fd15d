"""Decodes in lockstep: one count for all requests of a batch that get a token in every step.

An instance counts its steps in ticks. A request that has its first token joins the cohort; from
then on it has `OFFSET` more output tokens than there were ticks, its last token at the end of the
last step, and one more KV block every BLOCK_TOKENS ticks; `crossings` counts how many take a block
at which tick. The request's own columns are not updated until it leaves. Code that reads them, or
treats one request differently, dissolves the cohort first, which is correct at any time.

Of the gaps between ticks, `gaps` keeps those that no later one reached, as (tick, ns): the longest
gap since a tick is the first entry after it.
"""

from simulator.kernel.state import (
    ALLOCATED,
    APART,
    BLOCK_TOKENS,
    CHUNK,
    COHORT,
    COHORT_CONTEXTS,
    FINISH_TICK,
    FITS_TOKENS,
    FREE,
    GAPS,
    IN_COHORT,
    JOINED,
    KEPT_GAPS,
    KV,
    LAST,
    LAST_END,
    LONGEST,
    MAX_SEQS,
    OFFSET,
    OUT,
    PROMPT,
    SIZE,
    STEPPING,
    TARGET,
    TICKS,
    WIDTH,
    State,
)


def may_join(s: State, r: int) -> bool:
    """Whether a request with one token more than its blocks were for takes a block by the rule."""
    spare = s.req[FITS_TOKENS][r] + 1 - s.req[PROMPT][r] - s.req[OUT][r]
    rule: bool = 0 <= spare < s.fleet[BLOCK_TOKENS]
    return rule


def join_cohort(s: State, i: int, r: int) -> None:
    """Add a request to the cohort from this tick on; its next step is not planned yet."""
    ins, req, tick = s.ins, s.req, s.ins[TICKS][i]
    ahead = req[OUT][r] - tick
    req[IN_COHORT][r], req[OFFSET][r], req[JOINED][r] = 1, ahead, tick
    s.batches[_crossing(s, i, r)] += 1
    finish_tick = req[TARGET][r] - ahead
    if ins[COHORT][i] == 0 or finish_tick < ins[FINISH_TICK][i]:
        ins[FINISH_TICK][i] = finish_tick
    ins[COHORT][i] += 1
    ins[COHORT_CONTEXTS][i] += req[PROMPT][r] + req[OUT][r]


def _crossing(s: State, i: int, r: int) -> int:
    """Return the entry of `crossings` that counts a request."""
    block_tokens = s.fleet[BLOCK_TOKENS]
    tick = s.req[FITS_TOKENS][r] + 1 - s.req[PROMPT][r] - s.req[OFFSET][r]
    place: int = _crossings(s, i) + tick % block_tokens
    return place


def _crossings(s: State, i: int) -> int:
    base: int = i * s.fleet[WIDTH] + 2 * s.fleet[MAX_SEQS]
    return base


def _gaps(s: State, i: int) -> int:
    base: int = _crossings(s, i) + s.fleet[BLOCK_TOKENS]
    return base


def leave_cohort(s: State, i: int, r: int, grown: int) -> None:
    """Rewrite a request's own columns; it had blocks for the steps up to tick `grown`."""
    ins, req = s.ins, s.req
    out = req[OFFSET][r] + ins[TICKS][i]
    s.batches[_crossing(s, i, r)] -= 1
    ins[COHORT][i] -= 1
    ins[COHORT_CONTEXTS][i] -= req[PROMPT][r] + out
    req[IN_COHORT][r], req[OUT][r], req[KV][r] = 0, out, req[PROMPT][r] + out - 1
    req[LAST][r] = ins[LAST_END][i]
    req[LONGEST][r] = max(req[LONGEST][r], _longest_since(s, i, req[JOINED][r]))
    more = req[PROMPT][r] + req[OFFSET][r] + grown - req[FITS_TOKENS][r]
    if more > 0:
        req[FITS_TOKENS][r] += -(-more // s.fleet[BLOCK_TOKENS]) * s.fleet[BLOCK_TOKENS]


def dissolve(s: State, i: int) -> None:
    """Dissolve the cohort: every request of the batch is apart."""
    ins, base = s.ins, i * s.fleet[WIDTH]
    to_apart = s.fleet[MAX_SEQS]
    if ins[COHORT][i] == 0:
        return
    stepping = ins[STEPPING][i]
    grown = ins[TICKS][i] - 1 + stepping
    for at in range(base, base + ins[SIZE][i]):
        r = s.batches[at]
        s.batches[at + to_apart] = r
        if s.req[IN_COHORT][r]:
            leave_cohort(s, i, r, grown)
            s.req[CHUNK][r] = stepping
    ins[APART][i] = ins[SIZE][i]
    ins[GAPS][i] = 0


def due_now(s: State, i: int) -> int:
    """Count the blocks the cohort takes at this tick."""
    place = i * s.fleet[WIDTH] + 2 * s.fleet[MAX_SEQS] + s.ins[TICKS][i] % s.fleet[BLOCK_TOKENS]
    blocks: int = s.batches[place]
    return blocks


def take_crossing(s: State, i: int, ticks: int, after: int) -> None:
    """Take the blocks of so many ticks, `after` ticks from now."""
    blocks = crossing(s, i, ticks, after)
    s.ins[FREE][i] -= blocks
    s.ins[ALLOCATED][i] += blocks


def crossing(s: State, i: int, ticks: int, after: int) -> int:
    """Count the blocks taken in so many ticks, the first of which is `after` more than now."""
    block_tokens = s.fleet[BLOCK_TOKENS]
    rounds, rest = ticks // block_tokens, ticks % block_tokens
    blocks: int = rounds * s.ins[COHORT][i]
    base, first = _crossings(s, i), s.ins[TICKS][i] + after
    for tick in range(first, first + rest):
        blocks += s.batches[base + tick % block_tokens]
    return blocks


def keep_gap(s: State, i: int, tick: int, gap_ns: int) -> None:
    """Record the longest gap of the steps that end at a tick."""
    ins, gaps, base = s.ins, s.batches, _gaps(s, i)
    kept = ins[GAPS][i]
    while kept and gaps[base + 2 * kept - 1] <= gap_ns:
        kept -= 1
    if kept == KEPT_GAPS:
        _settle_gaps(s, i)
        kept = 0
    gaps[base + 2 * kept], gaps[base + 2 * kept + 1] = tick, gap_ns
    ins[GAPS][i] = kept + 1


def _settle_gaps(s: State, i: int) -> None:
    """Record the longest gap of each cohort member so far, so that the list can restart."""
    req, base = s.req, i * s.fleet[WIDTH]
    for at in range(base, base + s.ins[SIZE][i]):
        r = s.batches[at]
        if req[IN_COHORT][r]:
            req[LONGEST][r] = max(req[LONGEST][r], _longest_since(s, i, req[JOINED][r]))
            req[JOINED][r] = s.ins[TICKS][i]
    s.ins[GAPS][i] = 0


def _longest_since(s: State, i: int, tick: int) -> int:
    base = _gaps(s, i)
    for at in range(base, base + 2 * s.ins[GAPS][i], 2):
        if s.batches[at] > tick:
            longest_ns: int = s.batches[at + 1]
            return longest_ns
    return 0
