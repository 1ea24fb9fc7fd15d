"""Shared blocks that keep their content when free: `simulator.engine.shared_blocks`, on columns.

A block is a row of `State.blocks`. Those of an instance are contiguous, followed by one more row,
which closes the ring of the free ones, from the next to be handed out to the last. The blocks of
one request, or one reservation, form a ring too, identified by its last block. Blocks with content
are in buckets by their keys, those of one key in the order in which they got it.
"""

from simulator.kernel.state import (
    AFTER,
    AFTER_ALIKE,
    ALLOCATED,
    BEFORE,
    BEFORE_ALIKE,
    BUCKET,
    CONTENT,
    FREE,
    HOLDERS,
    TOTAL_BLOCKS,
    State,
)


def lay_out(s: State, i: int) -> None:
    """Make all blocks of an instance free and empty."""
    first, end = i * (s.fleet[TOTAL_BLOCKS] + 1), free_ring(s, i)
    blocks, size = s.blocks, end + 1 - first
    blocks[HOLDERS][first : end + 1] = [0] * size
    blocks[CONTENT][first : end + 1] = [-1] * size
    blocks[AFTER][first : end + 1] = [*range(first + 1, end + 1), first]
    blocks[BEFORE][first : end + 1] = [end, *range(first, end)]
    blocks[BUCKET][first : end + 1] = [-1] * size


def free_ring(s: State, i: int) -> int:
    """Return the row between the last and the first of an instance's free blocks."""
    row: int = i * (s.fleet[TOTAL_BLOCKS] + 1) + s.fleet[TOTAL_BLOCKS]
    return row


def hand_out(s: State, i: int, last: int, number: int, holders: int) -> int:
    """Take the first free blocks, whose content is lost, into a ring; return its new last.

    `last` is -1 for a new ring. There must be so many; the caller keeps the instance's counts.
    """
    after, before, ring = s.blocks[AFTER], s.blocks[BEFORE], free_ring(s, i)
    for _ in range(number):
        block = after[ring]
        _take_out(s, block)
        _forget(s, i, block)
        s.blocks[HOLDERS][block] = holders
        if last < 0:
            after[block] = before[block] = block
        else:
            _put_behind(s, block, last)
        last = block
    return last


def hand_back(s: State, i: int, last: int, number: int) -> None:
    """Free a ring that was reserved; the caller keeps the instance's counts."""
    after, ring = s.blocks[AFTER], free_ring(s, i)
    block = after[last] if number else -1
    for _ in range(number):
        following = after[block]
        _put_behind(s, block, ring)
        block = following


def commit(s: State, last: int, number: int) -> None:
    """Let a request hold the blocks of a ring that was reserved."""
    block = last
    for _ in range(number):
        s.blocks[HOLDERS][block] = 1
        block = s.blocks[BEFORE][block]


def share(s: State, i: int, block: int) -> None:
    """Add a holder to a block that was found; a free one is no longer free."""
    holders = s.blocks[HOLDERS]
    if holders[block] == 0:
        _take_out(s, block)
        s.ins[FREE][i] -= 1
        s.ins[ALLOCATED][i] += 1
    holders[block] += 1


def drop(s: State, i: int, block: int, place: int) -> int:
    """Drop a holder of a block; an unheld block is free, its content not yet lost.

    With content it goes to the end; without, behind `place`: the end of the ring, or what the last
    call gave. So a request's blocks are dropped in the order in which they are to go, its last
    ones first.
    """
    blocks = s.blocks
    blocks[HOLDERS][block] -= 1
    if blocks[HOLDERS][block]:
        return place
    s.ins[FREE][i] += 1
    s.ins[ALLOCATED][i] -= 1
    if blocks[CONTENT][block] >= 0:
        _put_behind(s, block, blocks[BEFORE][free_ring(s, i)])
        return place
    _put_behind(s, block, place)
    return block


def find(s: State, i: int, key: int) -> int:
    """Return the first block with this content, or -1."""
    content, following = s.blocks[CONTENT], s.blocks[AFTER_ALIKE]
    block: int = s.blocks[BUCKET][_bucket(s, i, key)]
    while block >= 0 and content[block] != key:
        block = following[block]
    return block


def keep(s: State, i: int, block: int, key: int) -> None:
    """Record the content of a held block; it has one content while it is held."""
    blocks = s.blocks
    if blocks[CONTENT][block] >= 0:
        return
    blocks[CONTENT][block] = key
    after, before = blocks[AFTER_ALIKE], blocks[BEFORE_ALIKE]
    bucket = _bucket(s, i, key)
    first = blocks[BUCKET][bucket]
    after[block] = -1
    if first < 0:
        blocks[BUCKET][bucket] = before[block] = block
    else:
        last = before[first]
        before[block], after[last], before[first] = last, block, block


def _forget(s: State, i: int, block: int) -> None:
    blocks = s.blocks
    key = blocks[CONTENT][block]
    if key < 0:
        return
    blocks[CONTENT][block] = -1
    after, before = blocks[AFTER_ALIKE], blocks[BEFORE_ALIKE]
    bucket, following = _bucket(s, i, key), after[block]
    first = blocks[BUCKET][bucket]
    if block == first:
        blocks[BUCKET][bucket] = following
    else:
        after[before[block]] = following
    if following >= 0:
        before[following] = before[block]
    elif block != first:
        before[first] = before[block]


def _bucket(s: State, i: int, key: int) -> int:
    total = s.fleet[TOTAL_BLOCKS]
    row: int = i * (total + 1) + key % total
    return row


def _put_behind(s: State, block: int, place: int) -> None:
    after, before = s.blocks[AFTER], s.blocks[BEFORE]
    following = after[place]
    after[block], before[block] = following, place
    after[place] = before[following] = block


def _take_out(s: State, block: int) -> None:
    after, before = s.blocks[AFTER], s.blocks[BEFORE]
    after[before[block]] = after[block]
    before[after[block]] = before[block]
