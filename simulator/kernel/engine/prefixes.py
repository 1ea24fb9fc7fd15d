"""Prompts with a common prefix share KV: `simulator.engine.prefix_cache.PrefixCache`, on columns.

While a request holds the blocks it found, a lookup finds the same ones: they are not recorded.
"""

from simulator.kernel.engine.shared_blocks import (
    commit,
    drop,
    find,
    free_ring,
    hand_out,
    keep,
    share,
)
from simulator.kernel.state import (
    AFTER,
    ALIKE,
    ALLOCATED,
    ASKED_AT,
    BEFORE,
    BLOCK_TOKENS,
    BY_CLASS,
    CHUNK,
    CLASS_COLUMNS,
    CLASSES,
    DEMANDS,
    FITS_TOKENS,
    FOUND,
    FREE,
    HEAD,
    HOLDERS,
    INTERFERENCE_AT_JOIN_NS,
    INTERFERENCE_NS,
    KEPT,
    KEY_TOKENS,
    KEYS_AT,
    KV,
    LAST_KEPT,
    NEXT,
    OUT,
    OWN,
    OWN_KEYS,
    PROMPT,
    PROMPT_TURN,
    SIZE,
    TARGET,
    TOTAL_BLOCKS,
    WIDTH,
    State,
)


def key_of(s: State, r: int, number: int) -> int:
    """Return the key of a block of a request: `simulator.engine.prefix.Prefix.keys`."""
    sharing = s.req
    first: int
    if number >= sharing[ALIKE][r]:
        first = sharing[OWN_KEYS][r]
    else:
        last_token = (number + 1) * s.fleet[BLOCK_TOKENS] - 1
        first = s.prompt_keys[sharing[KEYS_AT][r] + last_token // sharing[KEY_TOKENS][r]]
    return first + number


def findable(s: State, r: int) -> int:
    """Count the blocks a request may find: its last token is always computed, to yield the next."""
    if s.req[KEY_TOKENS][r] == 0:
        return 0
    blocks: int = (s.req[PROMPT][r] + s.req[OUT][r] - 1) // s.fleet[BLOCK_TOKENS]
    return blocks


def look_up(s: State, i: int, r: int) -> tuple[int, int]:
    """Return how many blocks a request finds, and how many of them are in use."""
    in_use = 0
    most = findable(s, r)
    for number in range(most):
        block = find(s, i, key_of(s, r, number))
        if block < 0:
            return number, in_use
        in_use += s.blocks[HOLDERS][block] > 0
    return most, in_use


def begin_anew(s: State, r: int) -> None:
    """Make a request hold nothing."""
    sharing = s.req
    sharing[FOUND][r] = sharing[KEPT][r] = sharing[PROMPT_TURN][r] = 0
    sharing[OWN][r] = sharing[LAST_KEPT][r] = -1


def take(s: State, i: int, r: int, blocks: int) -> None:
    """Give a request so many more blocks of its own, which must be free."""
    s.ins[FREE][i] -= blocks
    s.ins[ALLOCATED][i] += blocks
    s.req[FITS_TOKENS][r] += blocks * s.fleet[BLOCK_TOKENS]
    s.req[OWN][r] = hand_out(s, i, s.req[OWN][r], blocks, 1)


def start(s: State, i: int, r: int) -> bool:
    """Give a request the blocks needed to admit it, reusing the KV found; or do nothing."""
    req, sharing, block_tokens, free = s.req, s.req, s.fleet[BLOCK_TOKENS], s.ins[FREE][i]
    needed = -(-(req[PROMPT][r] + req[OUT][r]) // block_tokens)
    if needed - findable(s, r) > free:
        return False
    found, in_use = look_up(s, i, r)
    if needed - in_use > free:
        return False
    for number in range(found):
        share(s, i, find(s, i, key_of(s, r, number)))
    sharing[FOUND][r] = sharing[KEPT][r] = found
    req[KV][r] = req[FITS_TOKENS][r] = found * block_tokens
    take(s, i, r, needed - found)
    return True


def note_kv(s: State, i: int, r: int, kv_tokens: int) -> None:
    """Make the content of a request's full blocks, with KV of so many tokens, findable."""
    sharing, after = s.req, s.blocks[AFTER]
    number, full = sharing[KEPT][r], kv_tokens // s.fleet[BLOCK_TOKENS]
    if number >= full or sharing[KEY_TOKENS][r] == 0:
        return
    block = sharing[LAST_KEPT][r]
    if block < 0:
        block = sharing[OWN][r]  # the first follows the last of the ring
    while number < full:
        block = after[block]
        keep(s, i, block, key_of(s, r, number))
        number += 1
    sharing[KEPT][r], sharing[LAST_KEPT][r] = number, block


def move_in(s: State, i: int, r: int, last: int) -> None:
    """Give a request the ring of blocks that was reserved for it; its KV is there already."""
    commit(s, last, s.req[FITS_TOKENS][r] // s.fleet[BLOCK_TOKENS])
    s.req[OWN][r] = last
    note_kv(s, i, r, s.req[KV][r])


def release_blocks(s: State, i: int, r: int, kv_tokens: int) -> None:
    """Take all of a request's blocks; their content can be found as long as they are free."""
    if s.req[FITS_TOKENS][r] == 0:
        return  # they were taken already
    note_kv(s, i, r, kv_tokens)
    sharing, before = s.req, s.blocks[BEFORE]
    found, block, place = sharing[FOUND][r], sharing[OWN][r], free_ring(s, i)
    for _ in range(s.req[FITS_TOKENS][r] // s.fleet[BLOCK_TOKENS] - found):
        next_one = before[block]
        place = drop(s, i, block, place)
        block = next_one
    for number in range(found - 1, -1, -1):
        place = drop(s, i, find(s, i, key_of(s, r, number)), place)
    s.req[FITS_TOKENS][r] = 0
    begin_anew(s, r)


def grow_all(s: State, i: int, steps: int) -> None:
    """Give the batch its blocks of so many more steps, before ending requests free any."""
    req, base, block_tokens = s.req, i * s.fleet[WIDTH], s.fleet[BLOCK_TOKENS]
    for at in range(base, base + s.ins[SIZE][i]):
        r = s.batches[at]
        more = req[PROMPT][r] + req[OUT][r] + steps - req[FITS_TOKENS][r]
        if more > 0 and req[CHUNK][r]:
            take(s, i, r, -(-more // block_tokens))


def clear_prompts(s: State, i: int) -> None:
    """Charge a step's prompts with no delay to its decodes."""
    turns, base = s.req[PROMPT_TURN], i * s.fleet[WIDTH]
    for at in range(base, base + s.ins[SIZE][i]):
        if turns[s.batches[at]]:
            s.req[INTERFERENCE_AT_JOIN_NS][s.batches[at]] = s.ins[INTERFERENCE_NS][i]


def leave_in_order(s: State, i: int) -> None:
    """Take the blocks of the requests that end with this step: decodes first, then prompts in turn.

    Their content is lost in that order, which is not the batch's.
    """
    req, turns, base = s.req, s.req[PROMPT_TURN], i * s.fleet[WIDTH]
    end = base + s.ins[SIZE][i]
    prompts = 0
    for at in range(base, end):
        r = s.batches[at]
        if turns[r]:
            prompts = max(prompts, turns[r])
        elif req[CHUNK][r] and req[OUT][r] + 1 >= req[TARGET][r]:
            release_blocks(s, i, r, req[KV][r] + 1)
    for turn in range(1, prompts + 1):
        for at in range(base, end):
            r = s.batches[at]
            if turns[r] == turn:
                turns[r] = 0
                kv_tokens = req[KV][r] + req[CHUNK][r]
                if kv_tokens == req[PROMPT][r] + req[OUT][r] and req[OUT][r] + 1 >= req[TARGET][r]:
                    release_blocks(s, i, r, kv_tokens)
                break


def line_demand(s: State, i: int) -> tuple[int, int, int]:
    """Count the blocks the head of the line needs, and all need; and those each finds separately.

    Blocks in use are not needed; those several requests ask for are counted once.
    """
    s.fleet[DEMANDS] += 1
    first, all_of_them, found = -1, 0, 0
    for of_class in range(s.fleet[CLASSES]):
        r = s.ins[BY_CLASS + CLASS_COLUMNS * of_class + HEAD][i]
        while r >= 0:
            needed, found_here = _demand(s, i, r, s.fleet[DEMANDS])
            if first < 0:
                first = needed
            all_of_them += needed
            found += found_here
            r = s.req[NEXT][r]
    return max(first, 0), all_of_them, found


def _demand(s: State, i: int, r: int, turn: int) -> tuple[int, int]:
    """Count the blocks a request needs, and finds, beside those in use or asked for in this turn.

    What a turn has looked up already is a prefix of what this request asks for, if anything.
    """
    most, limit = findable(s, r), s.fleet[TOTAL_BLOCKS] + 1
    alike = min(s.req[ALIKE][r], most)
    known = _asked(s, r, alike, turn)
    found = min(known, s.prompt_keys[_mark(s, r, known - 1)] % limit) if known else 0
    needed: int = -(-(s.req[PROMPT][r] + s.req[OUT][r]) // s.fleet[BLOCK_TOKENS]) - known
    for number in range(known, most if found == known else known):
        block = find(s, i, key_of(s, r, number))
        if block < 0:
            break
        found += 1
        if s.blocks[HOLDERS][block]:
            needed -= 1
    size = s.req[KEY_TOKENS][r]
    while known < alike:
        mark = _mark(s, r, known)
        known = min(((_piece(s, r, known) + 1) * size) // s.fleet[BLOCK_TOKENS], alike)
        s.prompt_keys[mark] = (turn * limit + known) * limit + min(found, known)
    return needed, found


def _asked(s: State, r: int, most: int, turn: int) -> int:
    """Return how many of a request's first blocks were asked for in a turn."""
    fewest, limit = 0, s.fleet[TOTAL_BLOCKS] + 1
    while fewest < most:
        middle = (fewest + most) // 2
        if s.prompt_keys[_mark(s, r, middle)] // limit > turn * limit + middle:
            fewest = middle + 1
        else:
            most = middle
    return fewest


def _piece(s: State, r: int, number: int) -> int:
    """Return the piece of a request's prompt in which one of its blocks ends."""
    piece: int = ((number + 1) * s.fleet[BLOCK_TOKENS] - 1) // s.req[KEY_TOKENS][r]
    return piece


def _mark(s: State, r: int, number: int) -> int:
    """Return where `State.prompt_keys` marks the blocks that end within one piece of a prompt.

    A mark holds the turn, the last block asked for in it, and how many were found up to there.
    """
    first = _piece(s, r, number) * s.req[KEY_TOKENS][r] // s.fleet[BLOCK_TOKENS]
    mark: int = s.fleet[ASKED_AT] + key_of(s, r, first)
    return mark
