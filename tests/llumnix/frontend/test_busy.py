"""Instances without room, or that keep failing: others are asked, and they are spared."""

import asyncio
import errno

import pytest

from llumnix.fleet.view import fleet_status, set_gauges
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.instance import InstanceState
from policies.types import RequestId
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script

BUSY = {"Retry-After": "7"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
async def test_another_instance_is_asked_at_once_and_the_busy_one_is_spared(
    status: int, stream: bool
) -> None:
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(status=status, headers=BUSY))
        for _ in range(4):
            async with stage.post(stream=stream) as response:
                assert response.status == 200
                await response.read()

        assert [len(stub.heard) for stub in stage.stubs] == [1, 4]


async def test_when_all_are_busy_the_client_is_told_so_at_once() -> None:
    """In the words of an instance, which are not ours."""
    async with Stage(2) as stage:
        for stub in stage.stubs:
            stub.scripts.append(Script(status=429, headers=BUSY))
        async with stage.post() as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "7"
            assert "says no" in (await response.json())["error"]["message"]
        assert [len(stub.heard) for stub in stage.stubs] == [1, 1]


async def test_busy_instances_are_asked_all_the_same_where_no_other_serves() -> None:
    """The pause an instance asks for costs nobody a request that it could serve."""
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(status=503, headers=BUSY))
        async with stage.post() as response:
            assert response.status == 503
        async with stage.post() as response:
            assert response.status == 200


async def test_an_instance_that_keeps_failing_is_left_alone_then_probed() -> None:
    async with Stage(2) as stage:
        a = stage.instance("a")
        now_s = 0.0
        stage.fleet.health.now_s = lambda: now_s
        stage.stubs[0].scripts.extend(Script(status=500) for _ in range(6))
        for _ in range(20):
            async with stage.post() as response:
                assert response.status == 200
                await response.read()
        assert len(stage.stubs[0].heard) == 5
        kinds = [event.kind for event in stage.fleet.events.after(0)]
        assert kinds.count("breaker_open") == 1
        assert "no" in a.fitness.breaker.reason

        now_s = 5.5
        for _ in range(4):  # one of them is the probe, which fails
            async with stage.post() as response:
                await response.read()
        assert len(stage.stubs[0].heard) == 6

        now_s = 20.0
        for _ in range(4):
            async with stage.post() as response:
                await response.read()
        await until(lambda: a.fitness.objection(now_s) == "")
        assert len(stage.stubs[0].heard) >= 7


async def test_failing_instances_are_asked_where_there_is_no_other() -> None:
    """All breakers open is no reason to serve nobody."""
    async with Stage(1, max_attempts=1) as stage:
        stage.stubs[0].scripts.extend(Script(status=500) for _ in range(7))
        for _ in range(7):
            async with stage.post() as response:
                assert response.status == 502
        async with stage.post() as response:
            assert response.status == 200


@pytest.mark.parametrize("cause", ["hung", "failing", "busy"])
async def test_why_an_instance_is_left_alone_is_told(cause: str) -> None:
    """In the status of the fleet and as a metric, as long as it lasts."""
    async with Stage(2) as stage:
        a = stage.instance("a")
        if cause == "hung":
            stage.fleet.engine_seen(a, Motion(still_s=3.5))
        elif cause == "failing":
            stage.fleet.health.trip(a, "it broke off")
        else:
            stage.fleet.health.busy(a, RequestId("r"), 20.0)

        status = fleet_status(stage.fleet, 0, 0).instance("a")
        assert status is not None
        assert (status.reason, status.state) == (cause, "suspect" if cause == "hung" else "up")
        assert status.detail
        set_gauges(stage.fleet, [0, 0], 0)
        assert stage.metric("instance_not_up", instance_id="a", cause=cause) == 1
        stage.fleet.engine_seen(a, Motion(moved=True))
        a.fitness.renew()
        set_gauges(stage.fleet, [0, 0], 0)
        assert stage.metric("instance_not_up", instance_id="a", cause=cause) == 0


async def test_an_instance_that_hung_is_probed_once_nothing_runs_there() -> None:
    """By a request now and then; the first that it answers ends the suspicion."""
    async with Stage(2) as stage:
        a, now_s = stage.instance("a"), 0.0
        stage.fleet.health.now_s = lambda: now_s
        stage.fleet.engine_seen(a, Motion(still_s=3.5))
        for _ in range(4):
            await stage.stream()
        assert not stage.stubs[0].heard
        stage.fleet.engine_seen(a, Motion(idle=True))
        now_s = 5.5
        stage.stubs[0].scripts.append(Script(status=500))
        for _ in range(4):
            await stage.stream()
        assert len(stage.stubs[0].heard) == 1
        assert a.state == "suspect"

        now_s = 20.0
        await asyncio.gather(stage.stream(), stage.stream())
        assert len(stage.stubs[0].heard) == 2
        assert a.state == "up"
        kinds = [event.kind for event in stage.fleet.events.after(0)]
        assert [kinds.count(kind) for kind in ("instance_suspect", "instance_moves")] == [1, 1]


async def test_streams_of_a_hung_instance_wait_where_no_other_serves() -> None:
    """And so do those that cannot be carried on: it may come back."""
    async with Stage(2) as stage:
        stage.instance("b").set_draining(on=True)
        go_on = asyncio.Event()

        async def pause() -> None:
            await go_on.wait()

        stage.stubs[0].scripts.append(Script(pause=pause))
        reading = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[0].heard)
        stage.fleet.engine_seen(stage.instance("a"), Motion(still_s=3.5))
        await asyncio.sleep(0.05)
        assert not stage.stubs[0].cancelled.is_set()
        go_on.set()

        assert text_of(await reading) == full_text(TOKENS)
        assert not stage.stubs[1].heard


async def test_our_own_shortage_of_files_is_blamed_on_no_instance(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is tried for a while, then told to come back; every instance stays up."""

    async def starved(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with Stage(2, max_attempts=3) as stage:
        # The client's connection is there already.
        async with stage.session.get("/health") as response:
            assert response.status == 200
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "create_connection", starved)
            async with stage.post() as response:
                assert response.status == 503
                assert response.headers["Retry-After"]
        assert [each.state for each in stage.fleet.instances] == [InstanceState.UP] * 2
        assert any("ulimit -n" in line for line in caplog.messages)
        async with stage.post() as response:
            assert response.status == 200
