"""Servers without the plugin that hang: told by vLLM's counters, or by their silence."""

import asyncio
import errno
import time
from collections.abc import Mapping

import pytest

from llumnix.instances.instance import InstanceState
from llumnix.instances.untouched import progress
from tests.llumnix.frontend.stage import until
from tests.llumnix.instances.raw_server import Reply, raw_server
from tests.llumnix.instances.test_trouble import fleet_of


def page(tokens: int, running: int) -> str:
    return (
        f'vllm:num_requests_running{{engine="0"}} {running}\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.5\n'
        f'vllm:generation_tokens_total{{engine="0"}} {tokens}\n'
        f'vllm:prompt_tokens_total{{engine="0"}} 10\n'
    )


def test_progress_is_read_off_vllms_counters() -> None:
    assert progress(page(1, 1)) == progress(page(1, 5)) != progress(page(2, 1))
    assert progress("vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.5\n") == ()
    assert progress("") == ()


async def test_an_engine_whose_counters_stand_still_is_suspect_until_they_move() -> None:
    async with raw_server() as server:
        server.metrics = page(1, 0)
        async with fleet_of(server.url, step_timeout_s=0.2, poll_interval_s=0.02) as fleet:
            (instance,) = fleet.instances
            await until(lambda: instance.alive)
            for tokens in range(2, 6):
                server.metrics = page(tokens, 1)
                await until(lambda: instance.fitness.moved_at_s)
                await asyncio.sleep(0.05)
            await until(lambda: instance.state is InstanceState.SUSPECT)
            server.metrics = page(9, 1)
            await until(lambda: instance.state is InstanceState.UP)
            server.metrics = page(9, 0)
            await asyncio.sleep(1.0)

            assert instance.state is InstanceState.UP


async def test_a_server_that_takes_connections_and_answers_nothing_is_down_in_time() -> None:
    """From its last good poll, not from the deadline of the next."""
    silent = False

    async with raw_server() as server:

        def answer(path: str, headers: Mapping[str, str]) -> Reply | None:
            return None if silent else server.usual(path, headers)

        server.answer = answer
        async with fleet_of(server.url, report_timeout_s=2.0, poll_interval_s=0.1) as fleet:
            (instance,) = fleet.instances
            await until(lambda: instance.alive)
            began_s = time.monotonic()
            silent = True
            await until(lambda: instance.state is InstanceState.DOWN)

            assert 1.5 < time.monotonic() - began_s < 9.0


@pytest.mark.parametrize("lost", [True, False])
async def test_our_own_shortage_does_not_lose_a_server(
    lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is left for the poll: nothing is known of the server. Refused, it is down."""

    async def starved(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with (
        raw_server() as server,
        fleet_of(server.url, report_timeout_s=0.3, poll_interval_s=0.05) as fleet,
    ):
        (instance,) = fleet.instances
        await until(lambda: instance.alive)
        if lost:
            await server.stop()
            await until(lambda: instance.state is InstanceState.DOWN)
            return
        session = fleet._session
        assert session is not None
        assert session.connector is not None
        monkeypatch.setattr(session.connector, "connect", starved)
        await asyncio.sleep(1.0)

        assert instance.state is InstanceState.UP
