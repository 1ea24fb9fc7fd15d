"""Account for completed steps: `Engine.complete_step` and `Life.token`, on columns."""

from simulator.kernel.engine.cohort import (
    join_cohort,
    keep_gap,
    leave_cohort,
    may_join,
    take_crossing,
)
from simulator.kernel.engine.pace import keep_ends
from simulator.kernel.engine.prefixes import grow_all, leave_in_order
from simulator.kernel.engine.roster import (
    detach_leaving,
    free_blocks,
    leave_places,
    note,
    take_blocks,
)
from simulator.kernel.engine.runs import line_at, run_ns, step_ns, steps_within
from simulator.kernel.engine.speculating import keep_right_guesses
from simulator.kernel.state import (
    AFTER_MOVE,
    AFTER_PREEMPTION,
    APART,
    BLOCK_TOKENS,
    BUSY,
    BY_CLASS,
    CHUNK,
    CLASS,
    CLASS_COLUMNS,
    COHORT,
    COHORT_CONTEXTS,
    COHORTS,
    CONTEXTS,
    COST,
    DECODES,
    DRAFT_TOKENS,
    END,
    FATE,
    FINISH_TICK,
    FINISHED,
    FIRST,
    FITS_TOKENS,
    GONE,
    HERE,
    IN_COHORT,
    INTERFERENCE,
    INTERFERENCE_AT_JOIN_NS,
    INTERFERENCE_NS,
    KV,
    LAST,
    LAST_END,
    LONGEST,
    MAX_SEQS,
    MOVE_GAP,
    NEVER,
    NOTE_FINISHED,
    OFFSET,
    OPEN,
    OUT,
    PLACE,
    PREEMPTED,
    PREEMPTION_LOSS_NS,
    PROMPT,
    ROW,
    RUN,
    SEEN,
    SENT_REQUESTS,
    SENT_SIZE,
    SENT_TO,
    SENT_TOKENS,
    SENT_WHEN,
    SHARES,
    SIZE,
    START,
    STEPPING,
    STEPS,
    TARGET,
    TICKS,
    WAITS_FOR,
    WATCHED,
    WIDTH,
    State,
)


def complete(s: State, i: int) -> None:
    """End the current step or run: count its tokens, and release the completed requests."""
    ins = s.ins
    steps, start_ns, end_ns = ins[RUN][i], ins[START][i], ins[END][i]
    if s.fleet[DRAFT_TOKENS]:
        keep_right_guesses(s, i)
    _count(s, i, steps, end_ns, 0)
    ins[STEPPING][i] = 0
    if steps > 1:
        ins[STEPS][i] += steps - 1
        ins[BUSY][i] += end_ns - start_ns - ins[COST][i]
    keep_ends(s, i, steps, end_ns)
    detach_leaving(s, i)


def split(s: State, i: int, now_ns: int) -> None:
    """Count the steps of a run that are over by now; the rest continue."""
    ins = s.ins
    steps, start_ns, first_ns = ins[RUN][i], ins[START][i], ins[COST][i]
    decodes, contexts = ins[DECODES][i], ins[CONTEXTS][i]
    extra, fixed, slope, per = line_at(s.cost, decodes, contexts)
    done = steps_within(extra, fixed, slope, per, decodes, contexts, steps - 1, now_ns - start_ns)
    end_ns = start_ns + run_ns(extra, fixed, slope, per, decodes, contexts, done)
    _count(s, i, done, end_ns, 1)
    keep_ends(s, i, done, end_ns)
    contexts += done * decodes
    cost_ns = run_ns(extra, fixed, slope, per, decodes, contexts, 1)
    ins[RUN][i], ins[START][i], ins[COST][i] = steps - done, end_ns, cost_ns
    ins[CONTEXTS][i] = contexts
    ins[STEPS][i] += done
    ins[BUSY][i] += end_ns - start_ns - first_ns + cost_ns


def _count(s: State, i: int, steps: int, end_ns: int, planned: int) -> None:
    """Count the tokens of so many steps, the last of which ends at `end_ns`.

    `planned` is 1 when another step of the run is under way: it has its blocks already.
    """
    ins = s.ins
    first_end_ns, longest_of_run = ins[START][i] + ins[COST][i], 0
    if steps > 1:
        decodes = ins[DECODES][i]
        contexts = ins[CONTEXTS][i] + (steps - 1) * decodes
        longest_of_run = step_ns(s.cost, 0, 0, 0, 0, decodes, contexts)
    grown = steps - 1 + planned
    if s.fleet[SHARES]:
        if grown:
            grow_all(s, i, grown)
        else:
            leave_in_order(s, i)
    if ins[COHORT][i]:
        gap_ns = max(first_end_ns - ins[LAST_END][i], longest_of_run)
        keep_gap(s, i, ins[TICKS][i] + steps, gap_ns)
        if grown:
            take_crossing(s, i, grown, 1)
        ins[COHORT_CONTEXTS][i] += steps * ins[COHORT][i]
    ins[TICKS][i] += steps
    ins[LAST_END][i] = end_ns
    if ins[COHORT][i] and ins[TICKS][i] >= ins[FINISH_TICK][i]:
        _finish_cohort(s, i)
    if ins[APART][i]:
        joining = s.fleet[COHORTS] and not planned and not ins[WATCHED][i]
        _count_apart(s, i, steps, end_ns, grown, first_end_ns, longest_of_run, joining)


def _count_apart(
    s: State,
    i: int,
    steps: int,
    end_ns: int,
    grown: int,
    first_end_ns: int,
    longest_of_run: int,
    joining: int,
) -> None:
    """Count the tokens of requests outside the cohort; `joining`: they may join it afterwards."""
    ins, req, apart = s.ins, s.req, s.batches
    base = i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    prompts, outs, kvs, chunks = req[PROMPT], req[OUT], req[KV], req[CHUNK]
    lasts, longest, targets, fits = req[LAST], req[LONGEST], req[TARGET], req[FITS_TOKENS]
    waits, block_tokens = req[WAITS_FOR], s.fleet[BLOCK_TOKENS]
    kept, suffered = base, ins[INTERFERENCE_NS][i]
    for r in apart[base : base + ins[APART][i]]:
        apart[kept] = r
        kept += 1
        chunk = chunks[r]
        if chunk == 0:
            continue  # it arrived during the step
        if grown:
            more = prompts[r] + outs[r] + grown - fits[r]
            if more > 0:
                take_blocks(s, i, r, -(-more // block_tokens))
            kvs[r] += steps
        else:
            kvs[r] += chunk
            left = prompts[r] + outs[r] - kvs[r]
            if outs[r] == 0 or chunk > 1:
                req[INTERFERENCE_AT_JOIN_NS][r] = (
                    suffered  # in the next step it may be one of the decodes
                )
            if left:
                continue  # its prompt continues
        if outs[r] == 0:
            req[FIRST][r] = end_ns
        else:
            gap_ns = first_end_ns - lasts[r]
            if waits[r]:
                _end_waits(s, r, first_end_ns, gap_ns)
            if gap_ns < longest_of_run:
                gap_ns = longest_of_run
            if gap_ns > longest[r]:
                longest[r] = gap_ns
        outs[r] += steps
        lasts[r] = end_ns
        if outs[r] >= targets[r]:
            kept -= 1
            leave_places(s, i, r)
            _finish(s, i, r)
        elif joining and not waits[r] and may_join(s, r):
            kept -= 1
            join_cohort(s, i, r)
    ins[APART][i] = kept - base


def _finish_cohort(s: State, i: int) -> None:
    """Release the cohort members that have all their tokens."""
    ins, req, batch, base = s.ins, s.req, s.batches, i * s.fleet[WIDTH]
    tick, soonest, kept = ins[TICKS][i], NEVER, base
    together, targets, ahead = req[IN_COHORT], req[TARGET], req[OFFSET]
    for r in batch[base : base + ins[SIZE][i]]:
        if together[r]:
            finish_tick = targets[r] - ahead[r]
            if finish_tick <= tick:
                leave_cohort(s, i, r, tick - 1)
                ins[BY_CLASS + CLASS_COLUMNS * req[CLASS][r] + HERE][i] -= 1
                _finish(s, i, r)
                continue
            if finish_tick < soonest:
                soonest = finish_tick
        batch[kept] = r
        kept += 1
    ins[SIZE][i] = kept - base
    ins[FINISH_TICK][i] = soonest


def _end_waits(s: State, r: int, now_ns: int, gap_ns: int) -> None:
    req = s.req
    if req[WAITS_FOR][r] & AFTER_PREEMPTION:
        req[PREEMPTION_LOSS_NS][r] += now_ns - req[PREEMPTED][r]
        req[PREEMPTED][r] = 0
    if req[WAITS_FOR][r] & AFTER_MOVE:
        req[MOVE_GAP][r] = gap_ns
    req[WAITS_FOR][r] = 0


def _finish(s: State, i: int, r: int) -> None:
    """Release a request that has left the batch."""
    s.req[INTERFERENCE][r] += s.ins[INTERFERENCE_NS][i] - s.req[INTERFERENCE_AT_JOIN_NS][r]
    free_blocks(s, i, r)
    s.req[PLACE][r] = GONE
    s.req[FATE][r] = FINISHED
    s.fleet[OPEN] -= 1
    unsend(s, r)
    note(s, i, NOTE_FINISHED, r)


def unsend(s: State, r: int) -> None:
    """Remove a request from the count of those on their way to an instance."""
    sent = s.req[SENT_TO][r]
    if sent:
        s.req[SENT_TO][r] = 0
        if s.req[SENT_WHEN][r] < s.ins[SEEN][sent - 1]:
            return  # a report has counted it
        row = s.ins[ROW][sent - 1]
        s.col[SENT_TOKENS][row] -= s.req[SENT_SIZE][r]
        s.col[SENT_REQUESTS][row] -= 1
