"""Two emulated engines, their llumlets, real sockets: running requests move, and answers hold."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import pytest

from llumnix.emulator.model.answer import expected_output
from migration.llumlet.control import ControlClient
from migration.llumlet.fleet_messages import MigrationEvent, Report
from migration.protocol.peer import Peer
from policies.types import InstanceId, RequestId
from tests.llumnix.emulator.engines import some_prompt
from tests.llumnix.emulator.servers import (
    COMPLETIONS,
    SECRET,
    Answer,
    Server,
    arrival,
    body_for,
    departure,
    progress,
    resume_field,
    serving,
)

ENDED = ("committed", "aborted", "refused")


@dataclass
class Pair:
    """Two servers with a fleet's control connections; it is also a frontend of one stream each."""

    servers: list[Server]
    controls: list[ControlClient] = field(default_factory=list)
    events: list[MigrationEvent] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def on_event(self, event: MigrationEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def on_report(self, report: Report) -> None:
        self.reports.append(report)
        self.changed.set()

    def on_closed(self, reason: str) -> None:
        raise AssertionError(f"a control connection was closed: {reason}")

    async def order(self, source: int, request_id: str | None = None) -> str:
        """Order a migration to the other server."""
        destination = self.servers[1 - source].running
        migration_id = f"m{self.numbers()}"
        instance_id = InstanceId(destination.instance.config.instance_id)
        peer = Peer(instance_id, "127.0.0.1", destination.control_port)
        await self.controls[source].migrate_out(migration_id, peer, request_id)
        return migration_id

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def outcome(self, migration_id: str) -> MigrationEvent:
        """Wait for the end of a migration."""

        def ended() -> list[MigrationEvent]:
            return [
                event
                for event in self.events
                if event.migration_id == migration_id and event.kind in ENDED
            ]

        await self.until(lambda: bool(ended()))
        (event,) = ended()
        return event

    async def ask(self, name: str, prompt: list[int], tokens: int) -> tuple[Answer, int]:
        """Get an answer from the first server, following it wherever it goes; counts the moves."""
        body = body_for(COMPLETIONS, prompt=prompt, max_tokens=tokens)
        at, moves = 0, 0
        extra: dict[str, object] = {}
        had: list[int] = []
        while True:
            answer = await self.servers[at].streamed(
                COMPLETIONS, {**body, **extra}, **{"X-Request-Id": name}
            )
            assert answer.token_ids[: len(had)] == had, "a claim replays what was there"
            had = answer.token_ids
            if answer.finish_reason != "abort":
                return answer, moves
            assert answer.stop_reason is not None
            migration_id = answer.stop_reason.removeprefix("migrate:")
            at, moves, extra = 1 - at, moves + 1, resume_field(name, migration_id, None)


@asynccontextmanager
async def pair(speed: float = 1.0, **changes: int) -> AsyncIterator[Pair]:
    """Two servers; in the end neither holds a block, nor waits for a claim."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(serving(SECRET, speed, instance_id=name, **changes))
            for name in ("left", "right")
        ]
        both = Pair(servers)
        for server in servers:
            control = ControlClient(
                "127.0.0.1",
                server.running.control_port,
                SECRET,
                both.on_report,
                both.on_event,
                both.on_closed,
            )
            await control.connect()
            stack.push_async_callback(control.close)
            both.controls.append(control)
        yield both
        for server in servers:
            await departure(server)
            blocks = server.instance.engine.blocks
            assert blocks.allocated_blocks == 0
            assert server.instance._unclaimed == {}


@pytest.mark.parametrize("after", [1, 2, 9, 40])
@pytest.mark.parametrize("prompt", [1, 100, 500])
async def test_a_moved_request_answers_as_if_left_alone(prompt: int, after: int) -> None:
    """INV-4 over TCP: the claim replays and goes on; the source says it committed."""
    tokens = some_prompt(prompt, seed=after)
    async with pair(speed=0.5) as both:
        asking = asyncio.create_task(both.ask("r", tokens, 200))
        await arrival(both.servers[0])
        await progress(both.servers[0], "r", after)
        event = await both.outcome(await both.order(0, "r"))
        assert event.kind == "committed"
        assert event.copied_tokens >= prompt + after - 1
        answer, moves = await asking
        assert moves == 1
        assert tuple(answer.token_ids) == expected_output(tokens, 200)


async def test_requests_that_move_to_and_fro_under_load_stay_exact() -> None:
    """Sixteen streams, migrations both ways all the time, chosen by the llumlets themselves."""
    async with pair(0.5, capacity_tokens=4096, kv_payload_bytes_per_token=512) as both:
        asked = [(some_prompt(20 + 17 * n, n), 150 + 10 * n) for n in range(16)]
        asking = [
            asyncio.create_task(both.ask(f"r{n}", prompt, tokens))
            for n, (prompt, tokens) in enumerate(asked)
        ]
        await arrival(both.servers[0], 16)
        source = 0
        while not all(task.done() for task in asking):
            await both.outcome(await both.order(source))
            source = 1 - source
        moved = 0
        for (prompt, tokens), task in zip(asked, asking, strict=True):
            answer, moves = await task
            assert tuple(answer.token_ids) == expected_output(prompt, tokens)
            moved += moves
        committed = sum(event.kind == "committed" for event in both.events)
        assert committed == moved >= 4


async def test_a_client_that_leaves_while_its_request_moves_leaves_nothing_behind() -> None:
    """INV-5: the migration is cancelled, both sides free everything."""
    # So slow a link that the copy cannot be over before the client has left.
    async with pair(speed=0.05, link_bytes_per_s=1, link_bytes_per_token=1) as both:
        source, destination = (server.instance for server in both.servers)
        asking = asyncio.create_task(both.ask("r", some_prompt(100), 500))
        await arrival(both.servers[0])
        await progress(both.servers[0], "r", 2)
        migration_id = await both.order(0, "r")
        await both.until(lambda: bool(both.events))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        event = await both.outcome(migration_id)
        assert event.kind == "aborted"
        assert source.requests == destination.requests == {}
        async with asyncio.timeout(10):
            while destination.engine.blocks.reserved_blocks:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)


async def test_a_planted_fault_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that leave in the wrong order arrive intact, and still make the answer wrong."""
    prompt = some_prompt(100)
    async with pair() as both:
        pool = both.servers[0].instance.pool
        right = pool.views
        monkeypatch.setattr(pool, "views", lambda blocks: right([*blocks[1::-1], *blocks[2:]]))
        asking = asyncio.create_task(both.ask("r", prompt, 100))
        await arrival(both.servers[0])
        await progress(both.servers[0], "r", 3)
        event = await both.outcome(await both.order(0, "r"))
        assert event.kind == "committed"
        answer, _ = await asking
        assert tuple(answer.token_ids) != expected_output(prompt, 100)


async def test_reports_tell_who_came() -> None:
    """The fleet learns of each request once, wherever it runs, and of the load."""
    async with pair() as both:
        for control in both.controls:
            await control.subscribe(0.01)
        asking = asyncio.create_task(both.ask("r", some_prompt(50), 200))
        await arrival(both.servers[0])
        await progress(both.servers[0], "r", 3)
        await both.outcome(await both.order(0, "r"))
        await asking

        def told(instance_id: str) -> list[str]:
            return [
                request_id
                for report in both.reports
                if report.load.instance_id == instance_id
                for request_id in report.new_request_ids
            ]

        await both.until(lambda: bool(told("right")))
        seen = len(both.reports)
        await both.until(lambda: len(both.reports) > seen + 6)
        assert told("left") == told("right") == ["r"]
        assert max(report.load.physical_tokens for report in both.reports) >= 64


async def test_a_draining_instance_refuses_new_work_and_bounces_what_is_queued() -> None:
    """Queued requests come back to the frontend; new ones get 503."""
    async with pair(speed=0.05, max_num_seqs=1) as both:
        left = both.servers[0]
        await both.controls[0].subscribe(0.001)
        running = asyncio.create_task(both.ask("running", some_prompt(5), 100))
        await arrival(left)
        queued = asyncio.create_task(
            left.streamed(COMPLETIONS, body_for(COMPLETIONS), **{"X-Request-Id": "queued"})
        )
        await arrival(left, 2)
        await both.controls[0].drain(True)
        answer = await queued
        assert (answer.finish_reason, answer.stop_reason) == ("abort", "migrate:requeue")
        status, _ = await left.post(COMPLETIONS, body_for(COMPLETIONS))
        assert status == 503
        await progress(left, "running", 2)
        event = await both.outcome(await both.order(0, "running"))
        assert event.kind == "committed", event.reason
        moved, moves = await running
        assert moves == 1
        assert len(moved.token_ids) == 100
        assert left.instance.engine.get(RequestId("running")) is None
