"""Helper processes: they answer, and what goes wrong in one harms nobody else."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llumnix.frontend.bodies.helper import HelperFailed, Helpers
from llumnix.frontend.bodies.intake import parse_apart
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import Classes, parse
from tests.llumnix.frontend.stage import until

CLASSES = Classes(("high", "normal"), "normal")


def size_of(body: bytes, more: int) -> int:
    return len(body) + more


def pid_of(body: bytes) -> int:
    return os.getpid()


def fail(body: bytes) -> None:
    raise ValueError(body.decode())


def die(body: bytes) -> None:
    os._exit(3)


def hang(body: bytes) -> None:
    time.sleep(60)


def hoard(body: bytes) -> int:
    return len(bytes(64 * 2**30))


@pytest.fixture
async def helpers() -> AsyncIterator[Helpers]:
    running = Helpers(1, timeout_s=30.0)
    yield running
    await running.close()


async def test_large_bodies_reach_it_whole_and_it_is_kept(helpers: Helpers) -> None:
    pid = await helpers.run(pid_of, b"")
    assert pid != os.getpid()
    assert await helpers.run(size_of, bytes(5_000_000), 7) == 5_000_007
    assert await helpers.run(pid_of, b"") == pid


async def test_what_the_work_raises_is_raised_here(helpers: Helpers) -> None:
    with pytest.raises(ValueError, match="so it is"):
        await helpers.run(fail, b"so it is")
    assert await helpers.run(size_of, b"abc", 0) == 3


async def test_one_that_dies_or_takes_too_much_memory_is_replaced(helpers: Helpers) -> None:
    with pytest.raises(HelperFailed):
        await helpers.run(die, b"")
    with pytest.raises(HelperFailed, match="memory"):
        await helpers.run(hoard, b"")
    assert await helpers.run(size_of, b"abc", 0) == 3


async def test_one_that_hangs_is_replaced() -> None:
    hasty = Helpers(1, timeout_s=0.5)
    try:
        with pytest.raises(HelperFailed, match="too long"):
            await hasty.run(hang, b"")
    finally:
        await hasty.close()


async def test_those_that_nobody_needs_are_stopped() -> None:
    """A body may have left half a gigabyte in them."""
    resting = Helpers(2, timeout_s=30.0, idle_s=0.2)
    try:
        pid = await resting.run(pid_of, b"")
        await until(lambda: not Path(f"/proc/{pid}").exists())
        assert await resting.run(pid_of, b"") != pid
    finally:
        await resting.close()


async def test_a_client_that_leaves_does_not_confuse_the_next_answer(helpers: Helpers) -> None:
    await helpers.run(pid_of, b"")
    for _ in range(5):
        left = asyncio.create_task(helpers.run(size_of, bytes(2_000_000), 0))
        await asyncio.sleep(0)
        left.cancel()
        assert await helpers.run(size_of, b"abc", 0) == 3


BODIES = [
    b'{"model":"m","prompt":"a","stream":true}',
    b'{"model":"m","prompt":[1,2,3],"max_tokens":5,"priority":-1}',
    b'{"messages":[{"role":"user","content":"x"}],"kv_transfer_params":{"llumnix":1,"k":2}}',
    b'{"messages": 5}'.replace(b"5", b"[]"),
    b"[1]",
    b"{",
    b"[" * 50_000,
]


@pytest.mark.parametrize("raw", BODIES, ids=range(len(BODIES)))
async def test_a_helper_reads_a_body_as_the_frontend_would(helpers: Helpers, raw: bytes) -> None:
    here = parse("/v1/chat/completions", raw, {}, CLASSES, "acme")
    there, changed = await helpers.run(
        parse_apart, raw, "/v1/chat/completions", {}, CLASSES, "acme"
    )
    if isinstance(here, Refusal) or isinstance(there, Refusal):
        assert here == there
        return
    assert (changed or raw) == here.body
    for name in ("model", "class_name", "prompt_tokens", "resumable", "hides_ids", "forged"):
        assert getattr(there, name) == getattr(here, name)
    assert there.recipe == here.recipe
    assert there.tenant == "acme"
