"""What a llumlet sees of the engine, and the thread it lives in."""

import asyncio
import socket
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migration.config import MigrationConfig
from migration.engine import RequestState
from migration.errors import LinkError
from migration.layout import Layout
from migration.llumlet.control import ControlClient
from migration.vllm.announce import Announcement, path_for
from migration.vllm.engine.agent_thread import AgentThread, fitted
from migration.vllm.engine.hooks import VllmHooks
from migration.vllm.settings import PluginSettings
from policies.types import InstanceId, MigrationId, RequestId
from tests.vllm.toys.toy_engine import BLOCK_TOKENS, SECRET, ToyEngine
from tests.vllm.toys.toy_model import blocks_of, continuation

M, R = MigrationId("m"), RequestId("r")
PROMPT = list(range(1, 11))
ANSWER = continuation(PROMPT, 60)
LAYOUT = Layout("vllm", "toy", "uint64", BLOCK_TOKENS, 8 * BLOCK_TOKENS)
STATE = RequestState(R, 0, tuple(PROMPT), tuple(ANSWER[:3]), 12, {})


class Rig:
    def __init__(self, slots: int = 16, wait_s: float = 10.0) -> None:
        self.engine = ToyEngine(slots=slots)
        self.engine.bridge.join(asyncio.get_running_loop())
        arena: list[Any] = [self.engine.arena]
        self.hooks = VllmHooks(
            self.engine.side,
            self.engine.bridge,
            arena,
            self.engine.slots_out,
            LAYOUT,
            InstanceId("i"),
            wait_s,
            0.01,
        )

    def run_a_request(self) -> None:
        self.engine.submit("cmpl-a", PROMPT, 60, request_id=R)
        for _ in range(12):
            self.engine.step()
        self.hooks.departing(R, "migrate:m")

    async def stage(self, first: int, n: int) -> bool:
        """Stage blocks while the engine steps."""
        staged = self.hooks.stage(R, first, n)
        assert staged is not None
        task = asyncio.ensure_future(staged)
        async with asyncio.timeout(10):
            while not task.done():
                await asyncio.sleep(0)
                self.engine.step()
        return bool(task.result())

    async def expiry(self) -> None:
        """Wait until nothing unclaimed is left."""
        async with asyncio.timeout(10):
            while self.engine.side.shelf.active():  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.001)

    async def finish(self) -> None:
        self.hooks.departed(R)
        while not self.engine.idle:
            self.engine.step()
            await asyncio.sleep(0)
        self.engine.bridge.read()
        await self.expiry()
        self.engine.check_rest()


async def test_what_is_staged_can_be_viewed_until_it_is_sent() -> None:
    rig = Rig()
    rig.run_a_request()
    assert rig.hooks.kv_tokens(R) is not None
    assert await rig.stage(1, 2)
    assert rig.hooks.stage(R, 1, 2) is None
    views = [bytes(view) for view in rig.hooks.gather(R, 1, 2)]
    assert views == blocks_of(PROMPT + ANSWER, BLOCK_TOKENS, 12)[1:]
    rig.hooks.unstage(R, 1, 1)
    assert rig.engine.slots_out.free == len(rig.engine.slots_out) - 1
    await rig.finish()


async def test_staging_waits_for_slots_and_goes_on_with_them() -> None:
    rig = Rig()
    rig.run_a_request()
    taken = rig.engine.slots_out.acquire(7)
    assert taken is not None
    staged = rig.hooks.stage(R, 0, 2)
    assert staged is not None
    task = asyncio.ensure_future(staged)
    await asyncio.sleep(0)
    rig.engine.step()
    assert not task.done()
    rig.engine.slots_out.release(taken)
    rig.hooks.slots_freed()
    async with asyncio.timeout(10):
        while not task.done():
            await asyncio.sleep(0)
            rig.engine.step()
    assert task.result() is True
    await rig.finish()


@pytest.mark.parametrize("slots_there", [True, False])
async def test_staging_gives_up_in_time(slots_there: bool) -> None:
    """An engine that does not step, or slots that nobody gives back; nothing is lost by either."""
    rig = Rig(wait_s=0.02)
    rig.run_a_request()
    taken = [] if slots_there else rig.engine.slots_out.acquire(8)
    staged = rig.hooks.stage(R, 0, 2)
    assert staged is not None
    assert await staged is False
    rig.engine.slots_out.release(taken or [])
    await rig.finish()


async def test_a_copy_that_ends_after_the_migration_gives_its_slots_back() -> None:
    rig = Rig()
    rig.run_a_request()
    staged = rig.hooks.stage(R, 0, 2)
    assert staged is not None
    task = asyncio.ensure_future(staged)
    await asyncio.sleep(0)
    rig.hooks.departed(R)
    was_staged, _ = await asyncio.gather(task, run(rig))
    assert not was_staged
    await rig.finish()


async def run(rig: Rig) -> None:
    for _ in range(5):
        rig.engine.step()
        await asyncio.sleep(0)


async def test_a_request_that_is_not_there() -> None:
    rig = Rig()
    rig.hooks.departing(R, "migrate:m")
    assert rig.hooks.kv_tokens(R) is None
    rig.hooks.detach(R)
    assert not rig.hooks.requeue(R)
    rig.hooks.departed(R)
    staged: Awaitable[bool] | None = rig.hooks.stage(R, 0, 1)
    assert staged is not None
    assert await staged is False
    rig.hooks.unstage(R, 0, 1)
    slots = rig.engine.slots_out.acquire(2)
    assert slots is not None
    assert not rig.hooks.leaves(STATE, dict(enumerate(slots)))
    await rig.finish()


async def test_room_comes_when_slots_are_given_back() -> None:
    rig = Rig()
    assert rig.hooks.reserve(M, 12)
    assert rig.hooks.room(M, 0, 8) is None
    rig.hooks.arrived(M, 0, 8)
    room = rig.hooks.room(M, 8, 2)
    assert room is not None
    task = asyncio.ensure_future(room)
    await asyncio.sleep(0)
    assert not task.done()
    record = rig.engine.side.shelf.claim(M)
    assert record is not None
    rig.engine.side.shelf.give_back(rig.engine.side.shelf.take(record, 0, 4))
    rig.hooks.slots_freed()
    async with asyncio.timeout(10):
        assert await task
    assert len(rig.hooks.reserved_views(M, 8, 2)) == 2
    rig.engine.side.shelf.let_go(M)
    rig.hooks.free_reservation(M)
    await rig.finish()


async def test_no_room_in_time_and_frames_that_never_fit() -> None:
    rig = Rig(wait_s=0.02)
    rig.hooks.reserve(M, 12)
    rig.hooks.room(M, 0, 8)
    for n in (2, 9):
        room = rig.hooks.room(M, 8, n)
        assert room is not None
        with pytest.raises(LinkError):
            await room
    rig.hooks.free_reservation(M)
    await rig.finish()


async def test_reservations_are_refused_without_memory_or_when_a_request_is_done_with_them() -> (
    None
):
    rig = Rig()
    assert not rig.hooks.reserve(M, 40)
    assert rig.hooks.reserve(M, 39)
    rig.engine.side.shelf.claim(M)
    rig.engine.side.shelf.forget(M)
    assert not rig.hooks.reserve(M, 4)
    assert not rig.hooks.attach(M, STATE)
    rig.hooks.free_reservation(M)
    await rig.finish()


async def test_what_nobody_claims_is_forgotten() -> None:
    rig = Rig()
    rig.hooks.reserve(M, 2)
    rig.hooks.room(M, 0, 2)
    rig.hooks.arrived(M, 0, 2)
    assert rig.hooks.attach(M, STATE)
    assert rig.engine.side.shelf.active()
    await rig.expiry()
    await rig.finish()


async def test_load_counts_by_class_and_state() -> None:
    rig = Rig()
    for index in range(9):
        rig.engine.submit(f"r{index}", [index, *PROMPT], 60, request_id=f"r{index}")
    rig.engine.submit("plain", PROMPT, 3)
    rig.engine.step()
    load = rig.hooks.load()
    assert (load.running, load.waiting) == ((3,), (6,))  # a budget of 24 tokens a step
    assert (load.unclassed_running, load.unclassed_waiting) == (0, 1)
    assert load.head_demand_tokens == 12
    assert load.capacity_tokens == 39 * BLOCK_TOKENS
    assert load.physical_tokens >= 24
    assert load.prefill_backlog_tokens == 9 * 11 + 10 - 24


def test_frames_are_bounded_by_the_staging_memory() -> None:
    config = MigrationConfig()
    assert fitted(config, replace(LAYOUT, block_bytes=1 << 20), 1000).chunk_bytes == 4 << 20
    assert fitted(config, replace(LAYOUT, block_bytes=1 << 20), 4).chunk_bytes == 2 << 20
    assert fitted(config, replace(LAYOUT, block_bytes=1 << 20), 1).chunk_bytes == 1 << 20
    large = fitted(config, replace(LAYOUT, block_bytes=100 << 20), 8)
    assert large.max_payload_bytes == 100 << 20


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def thread(settings: PluginSettings) -> AgentThread:
    engine = ToyEngine()
    arena: list[Any] = [engine.arena]
    return AgentThread(
        engine.side, engine.bridge, arena, engine.slots_out, LAYOUT, settings, SECRET, "e", 156
    )


@pytest.mark.usefixtures("_folder")
async def test_the_thread_listens_announces_and_ends() -> None:
    agent = thread(PluginSettings(instance_id="here"))
    port = agent.start()
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    client = ControlClient(
        "127.0.0.1", port, SECRET, lambda _: None, lambda _: None, closed.set_result
    )
    async with asyncio.timeout(10):
        await client.connect()
        shown = {metric.name: metric for metric in Announcement("e").collect()}
        labels = shown["llumnix_llumlet_info"].samples[0].labels
        assert labels["control_port"] == str(port)
        assert (labels["instance_id"], labels["capacity_tokens"]) == ("here", "156")
        await asyncio.to_thread(agent.stop)
        await closed
    assert not path_for("e").exists()
    agent.stop()


@pytest.mark.usefixtures("_folder")
def test_a_port_that_is_taken_is_an_error_at_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        agent = thread(PluginSettings(control_port=other.getsockname()[1]))
        with pytest.raises(OSError, match="llumlet cannot start"):
            agent.start()
    assert not path_for("e").exists()
