"""Plan an instance's next step: `simulator.engine.engine.Engine.plan_step`, on columns.

If it only decodes and nothing else can intervene, the whole run of equal steps is planned, until a
request ends or memory runs short.
"""

from simulator.kernel.engine.cohort import crossing, dissolve, due_now
from simulator.kernel.engine.prefixes import clear_prompts, note_kv, start
from simulator.kernel.engine.roster import (
    demand_blocks,
    detach_leaving,
    enter_batch,
    free_slots,
    line_head,
    line_remove,
    make_room,
    take_blocks,
)
from simulator.kernel.engine.runs import chunk_sum, line_at, run_ns, step_ns, straight_steps
from simulator.kernel.engine.speculating import guessing_step_ns, make_room_for_guesses
from simulator.kernel.state import (
    ADMITTED,
    ALLOCATED,
    APART,
    BLOCK_TOKENS,
    BUSY,
    CACHED,
    CAME,
    CHUNK,
    COHORT,
    COHORT_CONTEXTS,
    CONTEXTS,
    COPIES,
    COST,
    DECODES,
    DRAFT_TOKENS,
    END,
    FINISH_TICK,
    FITS_TOKENS,
    FOUND,
    FREE,
    INTERFERENCE_NS,
    KV,
    MAX_SEQS,
    NEVER,
    OUT,
    PROMPT,
    PROMPT_TURN,
    QUEUE_LENGTH,
    RUN,
    SHARES,
    SIZE,
    SLOWDOWN,
    START,
    STEPPING,
    STEPS,
    TARGET,
    TICKS,
    TOKEN_BUDGET,
    WATCHED,
    WIDTH,
    State,
)

PER_MILLE = 1000


def plan(s: State, i: int, now_ns: int) -> None:
    """Plan the next step, or the next run of steps, which begins now; there may be none."""
    detach_leaving(s, i)
    ins, draft = s.ins, s.fleet[DRAFT_TOKENS]
    crowded = draft > 0 and make_room_for_guesses(s, i, now_ns)
    decodes, contexts, first_prompt, preempted = _plan_decodes(s, i, now_ns)
    preempted = preempted or crowded
    tokens = squares = ends = chunks = 0
    if first_prompt < ins[APART][i] or (ins[QUEUE_LENGTH][i] and not preempted):
        budget = s.fleet[TOKEN_BUDGET] - decodes * (1 + draft)
        tokens, squares, ends, chunks = _plan_prefills(
            s, i, budget, first_prompt, not preempted, now_ns
        )
    if decodes + chunks == 0:
        ins[STEPPING][i] = 0
        return
    cost_ns = _cost_ns(s, tokens, squares, ends, chunks, decodes, contexts)
    if ins[COPIES][i]:
        cost_ns += cost_ns * s.fleet[SLOWDOWN] // PER_MILLE
    ins[STEPPING][i] = ins[RUN][i] = 1
    ins[START][i], ins[COST][i], ins[END][i] = now_ns, cost_ns, now_ns + cost_ns
    ins[DECODES][i], ins[CONTEXTS][i] = decodes, contexts
    ins[STEPS][i] += 1
    ins[BUSY][i] += cost_ns
    if chunks:
        if decodes:
            alone_ns = _cost_ns(s, 0, 0, 0, 0, decodes, contexts)
            ins[INTERFERENCE_NS][i] += cost_ns - alone_ns
        if s.fleet[SHARES]:
            clear_prompts(s, i)
    elif not (preempted or draft or ins[COPIES][i] or ins[WATCHED][i] or ins[CAME][i]):
        _plan_run(s, i)


def _cost_ns(
    s: State, tokens: int, squares: int, ends: int, chunks: int, decodes: int, contexts: int
) -> int:
    if s.fleet[DRAFT_TOKENS]:
        return guessing_step_ns(s, tokens, squares, ends, chunks, decodes, contexts)
    return step_ns(s.cost, tokens, squares, ends, chunks, decodes, contexts)


def _plan_decodes(s: State, i: int, now_ns: int) -> tuple[int, int, int, bool]:
    """Give every decode the block its input needs, the most urgent first; mark who computes.

    Return how many decode, their contexts, the place of the first apart that does not, and whether
    any was preempted. Where preemption is possible, requests are handled one by one.
    """
    req, ins, base = s.req, s.ins, i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    prompts, outs, kvs, fits, chunk = req[PROMPT], req[OUT], req[KV], req[FITS_TOKENS], req[CHUNK]
    block_tokens, sizes, free = s.fleet[BLOCK_TOKENS], ins[APART], ins[FREE]
    if ins[COHORT][i]:
        due = due_now(s, i)
        if due + sizes[i] > free[i]:
            dissolve(s, i)
        else:
            free[i] -= due
            ins[ALLOCATED][i] += due
    decodes, contexts, at = ins[COHORT][i], ins[COHORT_CONTEXTS][i], 0
    first_prompt, preempted = NEVER, False
    for r in s.batches[base : base + sizes[i]]:
        if at >= sizes[i]:
            break  # the rest was preempted
        at += 1
        total = prompts[r] + outs[r]
        if outs[r] == 0 or total - kvs[r] != 1:
            chunk[r] = 0
            first_prompt = min(first_prompt, at - 1)
            continue
        if total > fits[r]:
            missing = -(-(total - fits[r]) // block_tokens)
            if free[i] < missing:
                preempted = True
                if not make_room(s, i, r, missing, now_ns):
                    continue
            take_blocks(s, i, r, missing)
        chunk[r] = 1
        decodes += 1
        contexts += total
    return decodes, contexts, first_prompt, preempted


def _plan_prefills(
    s: State, i: int, budget: int, at: int, admit: bool, now_ns: int
) -> tuple[int, int, int, int]:
    """Spend the budget that decodes leave on prompts: started ones, then new ones. Sums of chunks.

    Started prompts are searched from place `at` of those apart.
    """
    req, apart, base = s.req, s.batches, i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    tokens = squares = ends = chunks = 0
    begun = s.ins[APART][i]
    while budget > 0:
        while at < begun and req[CHUNK][apart[base + at]] != 0:
            at += 1
        if at < begun:
            r = apart[base + at]
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
        squares += chunk_sum(s.cost, start, end)
        ends += end
        chunks += 1
        if s.fleet[SHARES]:
            note_kv(s, i, r, end)
            s.req[PROMPT_TURN][r] = chunks
            if req[ADMITTED][r] == 0:
                s.req[CACHED][r] = s.req[FOUND][r] * s.fleet[BLOCK_TOKENS]
        if req[ADMITTED][r] == 0:
            req[ADMITTED][r] = now_ns
    return tokens, squares, ends, chunks


def _admit(s: State, i: int) -> int:
    """Admit the head of the line if a slot and all its blocks are free; return it, or -1."""
    r = line_head(s, i)
    if r < 0 or free_slots(s, i) <= 0:
        return -1
    if s.fleet[SHARES]:
        if not start(s, i, r):
            return -1
        line_remove(s, i, r)
    else:
        needed = demand_blocks(s, r)
        if needed > s.ins[FREE][i]:
            return -1
        line_remove(s, i, r)
        take_blocks(s, i, r, needed)
    enter_batch(s, i, r)
    return r


def _plan_run(s: State, i: int) -> None:
    """Extend a step of decodes to the run it begins."""
    ins, req, base = s.ins, s.req, i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    targets, outs = req[TARGET], req[OUT]
    decodes, contexts = ins[DECODES][i], ins[CONTEXTS][i]
    steps = 1 << 40
    if ins[COHORT][i]:
        steps = ins[FINISH_TICK][i] - ins[TICKS][i]
    for r in s.batches[base : base + ins[APART][i]]:
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
    """Return for how many of so many steps the free blocks last."""
    free, block_tokens = s.ins[FREE][i], s.fleet[BLOCK_TOKENS]
    if s.ins[SIZE][i] * (1 + (steps - 1) // block_tokens) <= free:
        return steps
    if growth(s, i, steps) <= free:
        return steps
    enough, too_many = 1, steps
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if growth(s, i, middle) <= free:
            enough = middle
        else:
            too_many = middle
    return enough


def growth(s: State, i: int, steps: int) -> int:
    """Count the blocks the batch takes from now until the last of so many steps is planned."""
    req, base = s.req, i * s.fleet[WIDTH] + s.fleet[MAX_SEQS]
    prompts, outs, fits, block_tokens = (
        req[PROMPT],
        req[OUT],
        req[FITS_TOKENS],
        s.fleet[BLOCK_TOKENS],
    )
    growth = crossing(s, i, steps - 1, 1) if s.ins[COHORT][i] else 0
    for r in s.batches[base : base + s.ins[APART][i]]:
        more = prompts[r] + outs[r] + steps - 1 - fits[r]
        if more > 0:
            growth += -(-more // block_tokens)
    return growth
