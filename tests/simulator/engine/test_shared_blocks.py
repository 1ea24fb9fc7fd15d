"""INV-3 with shared blocks: counted once, never handed out while held, content kept while free."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine.shared_blocks import Key, SharedBlocks

TOTAL = 10
CHAINS = 3

calls = st.lists(
    st.tuples(
        st.sampled_from(["admit", "free", "reserve", "commit", "unreserve"]),
        st.integers(0, TOTAL),
        st.integers(0, CHAINS - 1),
    ),
    max_size=60,
)


def keys_of(chain: int, blocks: int) -> list[Key]:
    return [b"%d:%d" % (chain, number) for number in range(blocks)]


def admit(blocks: SharedBlocks, n: int, chain: int) -> list[int] | None:
    """Do what a prefix cache does when it admits a request of `n` blocks."""
    keys = keys_of(chain, n)
    found = blocks.find(keys)
    in_use = sum(blocks.holders(block) > 0 for block in found)
    if n - in_use > blocks.free_blocks:
        return None
    blocks.share(found)
    fresh = blocks.allocate(n - len(found))
    assert fresh is not None, "found blocks were counted as free as well"
    blocks.keep(found + fresh, keys)
    return found + fresh


@given(calls)
def test_shared_blocks_are_conserved(script: list[tuple[str, int, int]]) -> None:
    """Held + reserved + free = total; a block's holders are counted; content is what was kept."""
    blocks = SharedBlocks(TOTAL, 16)
    requests: list[tuple[int, list[int]]] = []
    reserved: list[int] = []
    content: dict[int, Key] = {}
    for call, n, chain in script:
        held = {block for _, own in requests for block in own}
        taken: list[int] | None = None
        match call:
            case "admit":
                found = blocks.find(keys_of(chain, n))
                taken = admit(blocks, n, chain)
                if taken is not None:
                    fresh = set(taken) - set(found)
                    assert not fresh & (held | set(reserved)), "a block in use was handed out"
                    content.update(zip(taken, keys_of(chain, n), strict=True))
                    requests.append((chain, taken))
            case "free" if requests:
                blocks.free(requests.pop(n % len(requests))[1])
            case "reserve":
                taken = blocks.reserve(n)
                assert not set(taken or ()) & (held | set(reserved))
                reserved += taken or []
                content = {block: key for block, key in content.items() if block not in reserved}
            case "commit":
                moved, reserved = reserved[:n], reserved[n:]
                blocks.commit(moved)
                requests.append((-1, moved))
            case "unreserve":
                gone, reserved = reserved[:n], reserved[n:]
                blocks.unreserve(gone)
        holders = Counter(block for _, own in requests for block in own)
        assert {block: blocks.holders(block) for block in holders} == holders
        assert blocks.allocated_blocks == len(holders)
        assert blocks.reserved_blocks == len(reserved)
        assert blocks.free_blocks == TOTAL - len(holders) - len(reserved)
        for number in range(CHAINS):
            keys = keys_of(number, TOTAL)
            assert [content[block] for block in blocks.find(keys)] == keys[: len(blocks.find(keys))]


def test_content_outlives_its_holder_until_its_block_is_needed() -> None:
    """Blocks without content go first, then the ends of what was freed first."""
    blocks = SharedBlocks(6, 16)
    old, new = admit(blocks, 2, 0), admit(blocks, 2, 1)
    assert old is not None
    assert new is not None
    blocks.free(old)
    blocks.free(new)
    assert blocks.free_blocks == 6
    assert set(blocks.allocate(2) or ()).isdisjoint(old + new)
    assert blocks.find(keys_of(0, 2)) == old
    assert blocks.allocate(1) == [old[1]]
    assert blocks.find(keys_of(0, 2)) == [old[0]]
    assert blocks.find(keys_of(1, 2)) == new
    assert blocks.allocate(2) == [old[0], new[1]]
    assert blocks.allocate(2) is None


def test_what_was_found_is_not_the_first_to_go() -> None:
    """Content that is used again goes to the end of the line once more."""
    blocks = SharedBlocks(4, 16)
    first, second = admit(blocks, 2, 0), admit(blocks, 2, 1)
    blocks.free(first or [])
    blocks.free(second or [])
    blocks.free(admit(blocks, 2, 0) or [])
    assert blocks.allocate(2) == list(reversed(second or []))


def test_equal_content_in_two_blocks_is_found_while_one_of_them_lasts() -> None:
    """Two requests that computed the same at the same time keep a block each, as in vLLM."""
    blocks = SharedBlocks(2, 16)
    (one,), (other,) = blocks.allocate(1) or [], blocks.allocate(1) or []
    blocks.keep([one], keys_of(0, 1))
    blocks.keep([other], keys_of(0, 1))
    assert blocks.find(keys_of(0, 1)) == [one]
    blocks.free([one])
    assert blocks.reserve(1) == [one]
    assert blocks.find(keys_of(0, 1)) == [other]


def test_giving_back_twice_raises() -> None:
    """A block nobody holds cannot be freed."""
    blocks = SharedBlocks(4, 16)
    taken = blocks.allocate(1) or []
    blocks.free(taken)
    with pytest.raises(RuntimeError, match="freed, but not held"):
        blocks.free(taken)
