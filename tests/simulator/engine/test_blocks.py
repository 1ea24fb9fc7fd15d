"""INV-3: every block is free, allocated or reserved, and never two of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine.blocks import BlockAllocator

TOTAL = 12

calls = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "reserve", "free", "unreserve", "commit"]),
        st.integers(0, TOTAL + 2),
    ),
    max_size=60,
)


@given(calls)
def test_blocks_are_conserved(script: list[tuple[str, int]]) -> None:
    """Whatever is asked, no block is in two hands, and the counts say who holds how many."""
    blocks = BlockAllocator(TOTAL, 16)
    allocated: list[int] = []
    reserved: list[int] = []
    for call, n in script:
        match call:
            case "allocate" | "reserve":
                held = allocated if call == "allocate" else reserved
                free_before = blocks.free_blocks
                taken = getattr(blocks, call)(n)
                assert (taken is not None) == (n <= free_before)
                held += taken or []
            case "free":
                gone, allocated = allocated[:n], allocated[n:]
                blocks.free(gone)
            case "unreserve":
                gone, reserved = reserved[:n], reserved[n:]
                blocks.unreserve(gone)
            case "commit":
                moved, reserved = reserved[:n], reserved[n:]
                blocks.commit(moved)
                allocated += moved
        everyone = allocated + reserved
        assert len(set(everyone)) == len(everyone)
        assert set(everyone) <= set(range(TOTAL))
        assert blocks.allocated_blocks == len(allocated)
        assert blocks.reserved_blocks == len(reserved)
        assert blocks.free_blocks == TOTAL - len(everyone)


def test_giving_back_twice_raises() -> None:
    """A block freed twice is a broken invariant, not a shrug."""
    blocks = BlockAllocator(4, 16)
    taken = blocks.allocate(1)
    assert taken is not None
    blocks.free(taken)
    with pytest.raises(RuntimeError, match="is FREE, not ALLOCATED"):
        blocks.free(taken)


def test_a_reserved_block_is_not_freed_as_allocated() -> None:
    """Reservations are given back as reservations."""
    blocks = BlockAllocator(4, 16)
    taken = blocks.reserve(2)
    assert taken is not None
    with pytest.raises(RuntimeError, match="is RESERVED, not ALLOCATED"):
        blocks.free(taken)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2)])
def test_blocks_for_rounds_up(tokens: int, expected: int) -> None:
    """Part of a block takes a whole one."""
    assert BlockAllocator(4, 16).blocks_for(tokens) == expected


def test_fresh_blocks_follow_each_other() -> None:
    """A new pool hands blocks out in order, so that views of them can be merged."""
    assert BlockAllocator(8, 16).allocate(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("total", "size"), [(0, 16), (4, 0)])
def test_an_empty_pool_is_refused(total: int, size: int) -> None:
    """A pool without blocks, or blocks without tokens, is a mistake."""
    with pytest.raises(ValueError, match="must be > 0"):
        BlockAllocator(total, size)
