"""Speculative steps: `simulator.engine.speculation`, on columns.

Which guesses are right was drawn before the run: `State.prompt_keys`. The number of tokens a step
yields is not linear, so such steps are planned and counted one by one.
"""

from simulator.kernel.engine.roster import make_room, take_blocks
from simulator.kernel.engine.runs import chunk_sum, step_ns
from simulator.kernel.state import (
    BLOCK_TOKENS,
    CHUNK,
    DRAFT_TOKENS,
    DRAFTING_NS,
    FITS_TOKENS,
    FREE,
    GUESSED,
    KV,
    OUT,
    PROMPT,
    PROMPT_TURN,
    SHARES,
    SIZE,
    TOTAL_BLOCKS,
    WIDTH,
    State,
)


def make_room_for_guesses(s: State, i: int, now_ns: int) -> bool:
    """Give every decode the blocks all its tokens need, the most urgent first.

    Return whether any was preempted. Guesses that no memory could hold are past the last token.
    """
    req, ins, base = s.req, s.ins, i * s.fleet[WIDTH]
    prompts, outs, kvs, fits = req[PROMPT], req[OUT], req[KV], req[FITS_TOKENS]
    draft, block_tokens, sizes = s.fleet[DRAFT_TOKENS], s.fleet[BLOCK_TOKENS], ins[SIZE]
    most = s.fleet[TOTAL_BLOCKS] * block_tokens
    at, preempted = 0, False
    for r in s.batches[base : base + sizes[i]]:
        if at >= sizes[i]:
            break  # the rest was preempted
        at += 1
        total = prompts[r] + outs[r]
        if total + draft <= fits[r] or outs[r] == 0 or total - kvs[r] != 1:
            continue
        missing = -(-(min(total + draft, most) - fits[r]) // block_tokens)
        if ins[FREE][i] < missing:
            preempted = True
            if not make_room(s, i, r, missing, now_ns):
                continue
        take_blocks(s, i, r, missing)
    return preempted


def guessing_step_ns(
    s: State, tokens: int, squares: int, ends: int, chunks: int, decodes: int, contexts: int
) -> int:
    """Cost of a step as `runs.step_ns`, guesses included: each is a prompt of one token."""
    more = s.fleet[DRAFT_TOKENS] * decodes
    squares += more * chunk_sum(s.cost, 0, 1)
    ns = step_ns(s.cost, tokens + more, squares, ends + more, chunks + more, decodes, contexts)
    return ns + s.fleet[DRAFTING_NS] if decodes else ns


def right_guesses(s: State, byte: int) -> int:
    """Read a byte of the prompt keys."""
    guesses: int = (s.prompt_keys[byte >> 3] >> (8 * (byte & 7))) & 255
    return guesses


def keep_right_guesses(s: State, i: int) -> None:
    """Count the right guesses of a completed step, which are not counted otherwise.

    All its tokens come at one time, which the regular token already records.
    """
    req, base = s.req, i * s.fleet[WIDTH]
    prompts, outs, kvs, chunks = req[PROMPT], req[OUT], req[KV], req[CHUNK]
    guessed = req[GUESSED]
    for r in s.batches[base : base + s.ins[SIZE][i]]:
        if s.fleet[SHARES] and req[PROMPT_TURN][r]:
            continue  # of what it recomputes all but one token was found
        if chunks[r] == 1 and outs[r] > 0 and prompts[r] + outs[r] - kvs[r] == 1:
            kept = right_guesses(s, guessed[r] + outs[r])
            outs[r] += kept
            kvs[r] += kept
