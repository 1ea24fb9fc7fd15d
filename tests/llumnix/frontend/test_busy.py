"""Instances without room, or that keep failing: others are asked, and they are spared."""

import pytest

from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

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
