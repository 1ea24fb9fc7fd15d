"""Planted faults: a transport that damages one block changes the answer, and is caught by it."""

from collections.abc import Callable

import pytest

from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.requests import Sampling
from tests.llumnix.emulator.engines import HandStepped, copy_blocks, detach, some_prompt

PROMPT, LENGTH, MOVED_AFTER = 150, 30, 20
BLOCKS = 11  # 150 + 20 - 1 tokens in blocks of 16

Blocks = list[memoryview]
Fault = Callable[[Blocks, int], None]


async def moved(fault: Fault, position: int, payload: int = 64) -> bool:
    """Move a request, damage one of its blocks on the way; whether its answer is still right."""
    source = HandStepped(kv_payload_bytes_per_token=payload)
    destination = HandStepped(kv_payload_bytes_per_token=payload)
    # What was there before: another request's KV, so that nothing is zero by accident.
    destination.submit("before", some_prompt(400, seed=9), Sampling(1))
    destination.run_out()
    prompt = some_prompt(PROMPT)
    request = source.submit("a", prompt, Sampling(LENGTH, ignore_eos=True))
    while request.output_tokens < MOVED_AFTER - 1:
        source.step()
    state = detach(source, "a")
    assert len(state.output_token_ids) == MOVED_AFTER - 1
    stale = bytes(destination.instance.pool._raw)
    migration_id = copy_blocks(source, destination, state)
    blocks = destination.instance.engine.reserved_blocks(migration_id)
    assert len(blocks) == BLOCKS
    pool = destination.instance.pool
    views = [pool.views([block])[0] for block in blocks]
    if fault is keep_stale:
        size = pool.block_bytes
        start = blocks[position] * size
        views[position][:] = stale[start : start + size]
    else:
        fault(views, position)
    assert destination.hooks.attach(migration_id, state)
    arrived = destination.instance.claim(migration_id)
    assert arrived is not None
    destination.run_out()
    return tuple(arrived.outputs) == expected_output(prompt, LENGTH)


def nothing(blocks: Blocks, position: int) -> None:
    """No fault."""


def swap(blocks: Blocks, position: int) -> None:
    """Two blocks arrive in each other's place."""
    other = blocks[(position + 3) % BLOCKS]
    mine = bytes(blocks[position])
    blocks[position][:] = other
    other[:] = mine


def keep_stale(blocks: Blocks, position: int) -> None:
    """A block is never written: what was there before remains."""


def drop(blocks: Blocks, position: int) -> None:
    """A block arrives as zeros."""
    blocks[position][:] = bytes(len(blocks[position]))


def repeat(blocks: Blocks, position: int) -> None:
    """A block arrives twice, the second time in its neighbour's place."""
    blocks[(position + 1) % BLOCKS][:] = blocks[position]


def tear(blocks: Blocks, position: int) -> None:
    """Each row of a block arrives by half."""
    block = blocks[position]
    for row in range(0, len(block), 64):
        block[row : row + 32] = bytes(32)


async def test_an_undamaged_move_is_right() -> None:
    """The check passes when there is nothing to catch."""
    assert await moved(nothing, 0)


@pytest.mark.parametrize("fault", [swap, keep_stale, drop, repeat, tear])
async def test_every_planted_fault_is_caught(fault: Fault) -> None:
    """Whichever block it hits, the answer differs from what it must be."""
    unnoticed = [position for position in range(BLOCKS) if await moved(fault, position)]
    assert unnoticed == []


async def test_faults_in_small_payloads_are_caught() -> None:
    """One word a row is enough."""
    unnoticed = [position for position in range(BLOCKS) if await moved(drop, position, payload=8)]
    assert unnoticed == []


async def test_a_fault_is_caught_by_the_very_next_token() -> None:
    """The whole context is read for each token, so one more token is enough (but for 1/3839)."""
    caught = 0
    for position in range(BLOCKS):
        engine = HandStepped()
        prompt = some_prompt(PROMPT, seed=position)
        request = engine.submit("a", prompt, Sampling(5, ignore_eos=True))
        while request.output_tokens < 4:
            engine.step()
        block = engine.hooks.gather(request.request_id, 0, 10)
        data = b"".join(block)
        size = engine.instance.pool.block_bytes
        where = position % 9
        engine.hooks.gather(request.request_id, where, 1)[0][:] = data[-size:]
        engine.run_out()
        caught += tuple(request.outputs) != expected_output(prompt, 5)
    assert caught == BLOCKS
