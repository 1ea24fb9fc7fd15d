"""Steps of an instance: `simulator.engine` and `simulator.cluster.instance`, on columns.

`plan` decides the next step. When all it does is decode, and nothing else can come in between, it
plans the whole run of equal steps until one request ends or memory is short. `advance` brings an
instance to a moment, `settle` as well, but for a change: after it, one step at most is under way.
"""

from simulator.fast.roster import (
    clear_up,
    demand_blocks,
    enter_batch,
    free_blocks,
    free_slots,
    join,
    leave_batch,
    line_head,
    line_push,
    line_remove,
    note,
    preempt_last,
    take_blocks,
)
from simulator.fast.runs import line_at, run_ns, step_ns, steps_within, straight_steps
from simulator.fast.state import (
    ADMITTED,
    AFTER_MOVE,
    AFTER_PREEMPTION,
    ALIVE,
    ALLOCATED,
    BATCH,
    BLOCK_TOKENS,
    BLOCKS,
    BUSY,
    BY_CLASS,
    CHUNK,
    CLASS,
    CLASS_COLUMNS,
    CLEAR_UNTIL,
    CONTEXTS,
    COPIES,
    COST,
    DECODES,
    DETACHED,
    DETACHED_COUNT,
    EARLIEST,
    EARLIEST_OF_ALL,
    END,
    ENDS,
    FATE,
    FINISHED,
    FIRST,
    FREE,
    GONE,
    HERE,
    INTERFERENCE,
    KEPT_ENDS,
    KV,
    LAST,
    LEAST_STEP,
    LEAVING,
    LONGEST,
    LOSS,
    MAX_SEQS,
    MIGRATION,
    MOVE_GAP,
    NEVER,
    NOTE_DETACHED,
    NOTE_FINISHED,
    NOTE_PREEMPTED,
    OPEN,
    OUT,
    PLACE,
    PREEMPTED,
    PREEMPTIONS,
    PROMPT,
    QUEUE_LENGTH,
    ROW,
    RUN,
    RUN_CONTEXTS,
    RUN_DECODES,
    RUN_START,
    RUN_STEPS,
    SEEN,
    SENT,
    SENT_REQUESTS,
    SENT_SIZE,
    SENT_TOKENS,
    SENT_WHEN,
    SIZE,
    SLOWDOWN,
    START,
    STEP_ENDS,
    STEPPING,
    STEPS,
    SUFFERED,
    TARGET,
    TOKEN_BUDGET,
    WAITS_FOR,
    WATCHED,
    WOKEN,
    WOKEN_COUNT,
    State,
)

IDLE_NS = 2_000_000_000
"""A pause, not a step: `migration.pacing.IDLE_S`."""
PER_MILLE = 1000


def submit(s: State, i: int, r: int, now_ns: int) -> None:
    """Queue a request; one that has tokens already computes them again."""
    settle(s, i, now_ns)
    join(s, i, r)
    s.req[KV][r] = s.req[BLOCKS][r] = 0
    line_push(s, i, r, False)
    soonest = now_ns + (s.req[TARGET][r] - s.req[OUT][r]) * s.par[LEAST_STEP]
    s.ins[EARLIEST][i] = min(s.ins[EARLIEST][i], soonest)
    s.now[EARLIEST_OF_ALL] = min(s.now[EARLIEST_OF_ALL], soonest)
    wake(s, i)


def wake(s: State, i: int) -> None:
    """Have an instance go on once what happens now has happened, unless it is at work."""
    ins = s.ins
    if ins[ALIVE][i] and not ins[STEPPING][i] and not ins[WOKEN][i]:
        ins[WOKEN][i] = 1
        at = s.now[WOKEN_COUNT]
        s.woken[at] = i
        s.now[WOKEN_COUNT] = at + 1


def advance(s: State, i: int, now_ns: int) -> None:
    """Bring an instance nobody watches to a moment: all steps that end by then have ended."""
    ins = s.ins
    if ins[WATCHED][i]:
        return  # its steps are walked one by one, in their turn
    catch_up(s, i, now_ns)
    if ins[STEPPING][i] and ins[RUN][i] > 1 and ins[START][i] + ins[COST][i] <= now_ns:
        _split(s, i, now_ns)


def catch_up(s: State, i: int, now_ns: int) -> None:
    """End all runs that are over by a moment, and so all requests; one under way stays as it is."""
    ins = s.ins
    while ins[STEPPING][i] and ins[END][i] <= now_ns and not ins[WATCHED][i]:
        end_ns = ins[END][i]
        complete(s, i)
        plan(s, i, end_ns)


def blocks_at(s: State, i: int, now_ns: int) -> int:
    """Say how many blocks requests hold at a moment, while the run under way goes on."""
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
        allocated += _growth(s, i, done + 1)
    return allocated


def settle(s: State, i: int, now_ns: int) -> None:
    """Bring an instance to a moment, and let no step after the one under way be planned."""
    advance(s, i, now_ns)
    ins = s.ins
    if ins[STEPPING][i] and ins[RUN][i] > 1:
        ins[RUN][i] = 1
        ins[END][i] = ins[START][i] + ins[COST][i]


# --- planning ---


def plan(s: State, i: int, now_ns: int) -> None:
    """Decide the next step, or the next run of steps, which begins now; there may be none."""
    _detach_leaving(s, i)
    ins = s.ins
    decodes, contexts, first_prompt, preempted = _plan_decodes(s, i, now_ns)
    tokens = squares = ends = chunks = 0
    if first_prompt < ins[SIZE][i] or (ins[QUEUE_LENGTH][i] and not preempted):
        budget = s.par[TOKEN_BUDGET] - decodes
        tokens, squares, ends, chunks = _plan_prefills(
            s, i, budget, first_prompt, not preempted, now_ns
        )
    if decodes + chunks == 0:
        ins[STEPPING][i] = 0
        return
    cost_ns = step_ns(s.cost, tokens, squares, ends, chunks, decodes, contexts)
    if ins[COPIES][i]:
        cost_ns += cost_ns * s.par[SLOWDOWN] // PER_MILLE
    ins[STEPPING][i] = ins[RUN][i] = 1
    ins[START][i], ins[COST][i], ins[END][i] = now_ns, cost_ns, now_ns + cost_ns
    ins[DECODES][i], ins[CONTEXTS][i] = decodes, contexts
    ins[STEPS][i] += 1
    ins[BUSY][i] += cost_ns
    if chunks:
        if decodes:
            alone_ns = step_ns(s.cost, 0, 0, 0, 0, decodes, contexts)
            ins[SUFFERED][i] += cost_ns - alone_ns
    elif not (preempted or ins[COPIES][i] or ins[WATCHED][i]):
        _plan_run(s, i)


def _plan_decodes(s: State, i: int, now_ns: int) -> tuple[int, int, int, bool]:
    """Give every decode the block its input needs, the most urgent first; marks who computes.

    Gives how many decode, their contexts, the place of the first that does not, and whether any
    was preempted.
    """
    req, ins, batch, base = s.req, s.ins, s.batch, i * s.par[MAX_SEQS]
    prompts, outs, kvs, held, chunk = req[PROMPT], req[OUT], req[KV], req[BLOCKS], req[CHUNK]
    block_tokens, sizes, free = s.par[BLOCK_TOKENS], ins[SIZE], ins[FREE]
    decodes = contexts = at = 0
    first_prompt, preempted = NEVER, False
    for r in batch[base : base + sizes[i]]:
        if at >= sizes[i]:
            break  # the rest was preempted
        at += 1
        total = prompts[r] + outs[r]
        if outs[r] == 0 or total - kvs[r] != 1:
            chunk[r] = 0
            first_prompt = min(first_prompt, at - 1)
            continue
        missing = -(-total // block_tokens) - held[r]
        if missing > 0:
            while free[i] < missing:
                victim = preempt_last(s, i)
                req[PREEMPTIONS][victim] += 1
                req[PREEMPTED][victim] = now_ns
                req[WAITS_FOR][victim] |= AFTER_PREEMPTION
                note(s, i, NOTE_PREEMPTED, victim)
                preempted = True
                if victim == r:
                    break
            if preempted and req[PLACE][r] != BATCH:
                continue
            take_blocks(s, i, r, missing)
        chunk[r] = 1
        decodes += 1
        contexts += total
    return decodes, contexts, first_prompt, preempted


def _plan_prefills(
    s: State, i: int, budget: int, at: int, admit: bool, now_ns: int
) -> tuple[int, int, int, int]:
    """Spend what the decodes leave on prompts: those begun, then new ones. Sums of the chunks.

    Those begun are looked for from place `at` on.
    """
    req, ins, batch, base = s.req, s.ins, s.batch, i * s.par[MAX_SEQS]
    tokens = squares = ends = chunks = 0
    begun = ins[SIZE][i]
    while budget > 0:
        while at < begun and req[CHUNK][batch[base + at]] != 0:
            at += 1
        if at < begun:
            r = batch[base + at]
        elif admit:
            r = _admit(s, i)
        else:
            r = -1
        if r < 0:
            break
        start = req[KV][r]
        chunk = min(req[PROMPT][r] + req[OUT][r] - start, budget)
        req[CHUNK][r] = chunk
        end = start + chunk
        budget -= chunk
        tokens += chunk
        squares += end * end - start * start
        ends += end
        chunks += 1
        if req[ADMITTED][r] == 0:
            req[ADMITTED][r] = now_ns
    return tokens, squares, ends, chunks


def _admit(s: State, i: int) -> int:
    """Move the head of the line into the batch if a slot and all its blocks are free; or -1."""
    r = line_head(s, i)
    if r < 0 or free_slots(s, i) <= 0:
        return -1
    needed = demand_blocks(s, r)
    if needed > s.ins[FREE][i]:
        return -1
    line_remove(s, i, r)
    take_blocks(s, i, r, needed)
    enter_batch(s, i, r)
    return r


def _plan_run(s: State, i: int) -> None:
    """Lengthen a step of decodes to the run it begins."""
    ins, req, base = s.ins, s.req, i * s.par[MAX_SEQS]
    batch, targets, outs = s.batch, req[TARGET], req[OUT]
    decodes, contexts = ins[DECODES][i], ins[CONTEXTS][i]
    steps = 1 << 40
    for r in batch[base : base + ins[SIZE][i]]:
        left = targets[r] - outs[r]
        if left < steps:
            steps = left
    if steps > 1:
        steps = _steps_in_memory(s, i, steps)
    if steps > 1:
        steps = straight_steps(s.cost, decodes, contexts, steps)
    if steps > 1:
        extra, fixed, slope, per = line_at(s.cost, decodes, contexts)
        ins[RUN][i] = steps
        ins[END][i] = ins[START][i] + run_ns(extra, fixed, slope, per, decodes, contexts, steps)


def _steps_in_memory(s: State, i: int, steps: int) -> int:
    """Say for how many of so many steps the free blocks last."""
    free, block_tokens = s.ins[FREE][i], s.par[BLOCK_TOKENS]
    if s.ins[SIZE][i] * (1 + (steps - 1) // block_tokens) <= free:
        return steps
    if _growth(s, i, steps) <= free:
        return steps
    enough, too_many = 1, steps
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if _growth(s, i, middle) <= free:
            enough = middle
        else:
            too_many = middle
    return enough


def _growth(s: State, i: int, steps: int) -> int:
    """Blocks the batch takes from now until the last of so many steps is planned."""
    req, batch, base = s.req, s.batch, i * s.par[MAX_SEQS]
    prompts, outs, held, block_tokens = req[PROMPT], req[OUT], req[BLOCKS], s.par[BLOCK_TOKENS]
    growth = 0
    for r in batch[base : base + s.ins[SIZE][i]]:
        missing = -(-(prompts[r] + outs[r] + steps - 1) // block_tokens) - held[r]
        if missing > 0:
            growth += missing
    return growth


# --- completing ---


def complete(s: State, i: int) -> None:
    """End the step or run under way: count its tokens, and let go who has all of them."""
    ins = s.ins
    steps, start_ns, end_ns = ins[RUN][i], ins[START][i], ins[END][i]
    _count(s, i, steps, end_ns, 0)
    ins[STEPPING][i] = 0
    if steps > 1:
        ins[STEPS][i] += steps - 1
        ins[BUSY][i] += end_ns - start_ns - ins[COST][i]
    _keep_ends(s, i, steps, end_ns)
    _detach_leaving(s, i)


def _split(s: State, i: int, now_ns: int) -> None:
    """Count the steps of a run that are over by now; the rest go on."""
    ins = s.ins
    steps, start_ns, first_ns = ins[RUN][i], ins[START][i], ins[COST][i]
    decodes, contexts = ins[DECODES][i], ins[CONTEXTS][i]
    extra, fixed, slope, per = line_at(s.cost, decodes, contexts)
    done = steps_within(extra, fixed, slope, per, decodes, contexts, steps - 1, now_ns - start_ns)
    end_ns = start_ns + run_ns(extra, fixed, slope, per, decodes, contexts, done)
    _count(s, i, done, end_ns, 1)
    _keep_ends(s, i, done, end_ns)
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
    ins, req, batch, base = s.ins, s.req, s.batch, i * s.par[MAX_SEQS]
    first_end_ns, last_ns = ins[START][i] + ins[COST][i], ins[COST][i]
    if steps > 1:
        decodes = ins[DECODES][i]
        contexts = ins[CONTEXTS][i] + (steps - 1) * decodes
        last_ns = step_ns(s.cost, 0, 0, 0, 0, decodes, contexts)
    grown, block_tokens = steps - 1 + planned, s.par[BLOCK_TOKENS]
    prompts, outs, kvs, chunks = req[PROMPT], req[OUT], req[KV], req[CHUNK]
    lasts, longest, targets = req[LAST], req[LONGEST], req[TARGET]
    waits, longest_of_run = req[WAITS_FOR], last_ns if steps > 1 else 0
    kept, suffered = base, ins[SUFFERED][i]
    for r in batch[base : base + ins[SIZE][i]]:
        batch[kept] = r
        kept += 1
        chunk = chunks[r]
        if chunk == 0:
            continue  # it came while the step was under way
        if grown:
            missing = -(-(prompts[r] + outs[r] + grown) // block_tokens) - req[BLOCKS][r]
            if missing > 0:
                take_blocks(s, i, r, missing)
            kvs[r] += steps
        else:
            kvs[r] += chunk
            left = prompts[r] + outs[r] - kvs[r]
            if outs[r] == 0 or chunk > 1:
                req[CLEAR_UNTIL][r] = suffered  # in the next step it may be one of the decodes
            if left:
                continue  # its prompt goes on
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
            req[INTERFERENCE][r] += suffered - req[CLEAR_UNTIL][r]
            _finish(s, i, r)
    ins[SIZE][i] = kept - base


def _end_waits(s: State, r: int, now_ns: int, gap_ns: int) -> None:
    req = s.req
    if req[WAITS_FOR][r] & AFTER_PREEMPTION:
        req[LOSS][r] += now_ns - req[PREEMPTED][r]
        req[PREEMPTED][r] = 0
    if req[WAITS_FOR][r] & AFTER_MOVE:
        req[MOVE_GAP][r] = gap_ns
    req[WAITS_FOR][r] = 0


def _finish(s: State, i: int, r: int) -> None:
    free_blocks(s, i, r)
    s.req[PLACE][r] = GONE
    s.ins[BY_CLASS + CLASS_COLUMNS * s.req[CLASS][r] + HERE][i] -= 1
    s.req[FATE][r] = FINISHED
    s.now[OPEN] -= 1
    unsend(s, r)
    note(s, i, NOTE_FINISHED, r)


def unsend(s: State, r: int) -> None:
    """Take a request off the books of what is on its way to an instance."""
    sent = s.req[SENT][r]
    if sent:
        s.req[SENT][r] = 0
        if s.req[SENT_WHEN][r] < s.ins[SEEN][sent - 1]:
            return  # a report has seen it
        row = s.ins[ROW][sent - 1]
        s.col[SENT_TOKENS][row] -= s.req[SENT_SIZE][r]
        s.col[SENT_REQUESTS][row] -= 1


def _keep_ends(s: State, i: int, steps: int, end_ns: int) -> None:
    """Keep when the last few steps ended, for `step_ends`: of a long run, the run."""
    if not s.par[MIGRATION]:
        return
    ins = s.ins
    if steps >= KEPT_ENDS:
        ins[RUN_START][i], ins[RUN_STEPS][i] = ins[START][i], steps
        ins[RUN_DECODES][i], ins[RUN_CONTEXTS][i] = ins[DECODES][i], ins[CONTEXTS][i]
        ins[ENDS][i] = 1
        ins[STEP_ENDS][i] = end_ns
        return
    if steps > 1:
        extra, fixed, slope, per = line_at(s.cost, ins[DECODES][i], ins[CONTEXTS][i])
        for step in range(1, steps):
            took_ns = run_ns(extra, fixed, slope, per, ins[DECODES][i], ins[CONTEXTS][i], step)
            _keep_end(s, i, ins[START][i] + took_ns)
    _keep_end(s, i, end_ns)


def _keep_end(s: State, i: int, end_ns: int) -> None:
    ins = s.ins
    kept = ins[ENDS][i]
    if kept and end_ns - ins[STEP_ENDS + kept - 1][i] >= IDLE_NS:
        kept = ins[RUN_STEPS][i] = 0
    if kept == KEPT_ENDS:
        ins[RUN_STEPS][i] = 0
        for at in range(KEPT_ENDS - 1):
            ins[STEP_ENDS + at][i] = ins[STEP_ENDS + at + 1][i]
        kept -= 1
    ins[STEP_ENDS + kept][i] = end_ns
    ins[ENDS][i] = kept + 1


def step_ends(s: State, i: int) -> list[int]:
    """Say when the last few steps ended, without pauses: for `migration.pacing.StepTime`."""
    ins = s.ins
    ends = [int(ins[STEP_ENDS + at][i]) for at in range(int(ins[ENDS][i]))]
    steps = int(ins[RUN_STEPS][i])
    if steps:
        decodes, contexts = int(ins[RUN_DECODES][i]), int(ins[RUN_CONTEXTS][i])
        line = line_at(s.cost, decodes, contexts)
        earlier = range(max(1, steps - KEPT_ENDS + len(ends)), steps)
        start_ns = int(ins[RUN_START][i])
        ends = [start_ns + run_ns(*line, decodes, contexts, step) for step in earlier] + ends
    return ends


# --- leaving the batch, and coming back ---


def _detach_leaving(s: State, i: int) -> None:
    """Take those that are to be detached out of the batch; they keep their blocks."""
    ins, req, base = s.ins, s.req, i * s.par[MAX_SEQS]
    if not ins[WATCHED][i]:
        return
    at = 0
    while at < ins[SIZE][i]:
        r = s.batch[base + at]
        if not req[LEAVING][r]:
            at += 1
            continue
        clear_up(s, i, r)
        leave_batch(s, i, r)
        ins[BY_CLASS + CLASS_COLUMNS * req[CLASS][r] + HERE][i] += 1
        ins[DETACHED_COUNT][i] += 1
        req[PLACE][r], req[LEAVING][r] = DETACHED, 0
        note(s, i, NOTE_DETACHED, r)
