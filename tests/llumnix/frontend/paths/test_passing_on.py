"""Paths that are passed on: to a server of the model, by load, and elsewhere when one fails."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from tests.llumnix.frontend.paths.served import PathServer, Play, answer, drop
from tests.llumnix.frontend.stage import Stage, until

PATHS = ["/v1/embeddings", "/tokenize", "/v1/unknown/to/us"]


@contextlib.asynccontextmanager
async def staged(instances: int = 2, **more: Any) -> AsyncIterator[Stage]:
    async with Stage(instances, engine=PathServer, **more) as stage:
        yield stage


def server(stage: Stage, at: int) -> PathServer:
    stub = stage.stubs[at]
    assert isinstance(stub, PathServer)
    return stub


async def ask(stage: Stage, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    data = io.BytesIO(json.dumps({"model": "m", **body}).encode())
    kind = {"Content-Type": "application/json"}
    async with stage.session.post(path, data=data, headers=kind) as response:
        told: dict[str, Any] = await response.json()
        return response.status, told


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_goes_to_a_server_of_its_model(path: str) -> None:
    async with staged(models={"a": "chat", "b": "embed"}) as stage:
        got = [await ask(stage, path, model="embed") for _ in range(4)]

    assert got == [(200, {"served_by": "b"})] * 4


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_model_is_told_as_a_server_would(path: str) -> None:
    async with staged() as stage:
        status, told = await ask(stage, path, model="nobody's")

    assert status == 404
    assert told["error"]["message"] == "The model `nobody's` does not exist."


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["", None])
async def test_an_empty_model_is_the_servers_own(path: str, model: str | None) -> None:
    async with staged() as stage:
        assert (await ask(stage, path, model=model))[0] == 200


async def test_work_of_the_engine_goes_where_there_is_room() -> None:
    policy = SchedulerConfig(dispatch=PolicySpec("least-requests"), migration=False)
    async with staged(scheduler=policy) as stage:
        stage.report("a", running=(0, 5))
        stage.report("b", running=(0, 3))
        got = [(await ask(stage, "/v1/embeddings"))[1]["served_by"] for _ in range(3)]

    assert got == ["b", "b", "b"]


async def test_work_that_is_under_way_counts_before_it_is_reported() -> None:
    policy = SchedulerConfig(dispatch=PolicySpec("least-requests"), migration=False)
    async with staged(scheduler=policy) as stage:
        hold = asyncio.Event()

        async def wait(_http: Any) -> Any:
            await hold.wait()
            return await answer(200, {})(_http)

        for stub in (server(stage, 0), server(stage, 1)):
            stub.plays.extend([wait] * 2)
        asked = [asyncio.ensure_future(ask(stage, "/v1/embeddings")) for _ in range(4)]
        await until(lambda: len(server(stage, 0).got) + len(server(stage, 1).got) == 4)
        counts = [len(server(stage, at).got) for at in (0, 1)]
        listed = [each.immovable for each in stage.fleet.requests.active.values()]
        hold.set()
        await asyncio.gather(*asked)

    assert counts == [2, 2]
    assert len(listed) == 4
    assert all(listed)


@pytest.mark.parametrize("path", PATHS[:2])
async def test_a_server_that_takes_no_connection_is_replaced(path: str) -> None:
    async with staged() as stage:
        await stage.stubs[0].stop()
        got = [await ask(stage, path) for _ in range(4)]

        assert got == [(200, {"served_by": "b"})] * 4
        assert not stage.instance("a").alive


@pytest.mark.parametrize("path", PATHS[:2])
@pytest.mark.parametrize(
    "play", [drop, answer(500), answer(503), answer(429)], ids=["drop", "500", "503", "429"]
)
async def test_a_server_that_fails_is_replaced(path: str, play: Play) -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(play)
        got = [await ask(stage, path) for _ in range(2)]

        assert [status for status, _ in got] == [200, 200]
        assert not server(stage, 0).plays


async def test_what_is_not_known_to_be_harmless_is_not_sent_twice() -> None:
    async with staged() as stage:
        for stub in (server(stage, 0), server(stage, 1)):
            stub.plays.append(drop)
        status, _ = await ask(stage, "/v1/unknown/to/us")
        sent = len(server(stage, 0).got) + len(server(stage, 1).got)

    assert status == 502
    assert sent == 1


async def test_a_request_takes_down_at_most_two_servers() -> None:
    async with staged(4) as stage:
        for at in range(4):
            server(stage, at).plays.append(drop)
        status, told = await ask(stage, "/v1/embeddings")
        sent = sum(len(server(stage, at).got) for at in range(4))

    assert status == 502
    assert sent == 2
    assert told["error"]["code"] == "bad_gateway"


async def test_when_all_decline_the_client_hears_the_longest_wait() -> None:
    async with staged(3) as stage:
        for at, wait_s in enumerate(("7", "30", "2")):
            server(stage, at).plays.append(
                answer(503, {"error": {"message": "full"}}, Retry_After=wait_s)
            )
        async with stage.session.post("/v1/embeddings", json={"model": "m"}) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "30"
            assert (await response.json())["error"]["message"] == "full"


async def test_a_refusal_of_the_client_is_final() -> None:
    async with staged() as stage:
        for at in (0, 1):
            server(stage, at).plays.append(answer(400, {"error": {"message": "no"}}))
        status, told = await ask(stage, "/v1/embeddings")
        sent = len(server(stage, 0).got) + len(server(stage, 1).got)

    assert (status, told["error"]["message"], sent) == (400, "no", 1)


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_body_arrives_whole_the_second_time(size: int) -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(drop)
        text = "x" * size
        got = [(await ask(stage, "/v1/embeddings", input=text))[0] for _ in range(2)]
        bodies = [each.json()["input"] for at in (0, 1) for each in server(stage, at).got]

    assert got == [200, 200]
    assert bodies == [text] * 3


async def test_a_body_too_large_to_be_kept_is_sent_once() -> None:
    async with staged(body_limit_bytes=1000) as stage:
        status, _ = await ask(stage, "/v1/embeddings", input="x" * 200_000)
        assert status == 200
        for at in (0, 1):
            server(stage, at).plays.append(drop)
        status, _ = await ask(stage, "/v1/embeddings", input="x" * 200_000)
        sent = sum(len(server(stage, at).got) for at in (0, 1))

    assert status == 502
    assert sent == 2


async def test_what_bodies_hold_is_given_back() -> None:
    async with staged(queue_limit_bytes=5000) as stage:
        for _ in range(5):
            await ask(stage, "/v1/embeddings", input="x" * 3000)
        server(stage, 0).plays.append(drop)
        got = [(await ask(stage, "/v1/embeddings", input="x" * 3000))[0] for _ in range(2)]

    assert got == [200, 200]


async def test_a_connection_that_the_server_closed_is_retried() -> None:
    """Closed right after an answer, as servers do that have been idle: nobody is to blame."""
    async with staged(1) as stage:
        for _ in range(3):
            async with stage.session.post("/v1/embeddings", json={"model": "m"}) as response:
                assert response.status == 200
            server(stage, 0).plays.append(drop)  # the kept connection goes, unanswered
        status, _ = await ask(stage, "/v1/embeddings")

    assert status == 200


async def test_a_broken_body_is_the_clients_fault() -> None:
    """Neither is an instance blamed for it, nor is it an error of ours."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with staged() as stage:
        for path in ("/v1/embeddings", "/tokenize", "/v1/responses", "/v1/chat/completions"):
            async with stage.session.post(path, data=b"no gzip", headers=headers) as response:
                assert response.status == 400, path
                assert "error" in await response.json()
        assert stage.instance("a").alive
        assert stage.instance("b").alive


async def test_no_instance_is_a_bounded_wait() -> None:
    async with staged(1, queue_timeout_s=0.05) as stage:
        stage.instance("a").set_draining(on=True)
        async with stage.session.post("/v1/embeddings", json={"model": "m"}) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1


async def test_work_of_the_engine_is_counted() -> None:
    async with staged() as stage:
        await ask(stage, "/v1/embeddings")

        assert stage.metric("requests_total", class_name="normal", outcome="finished") == 1
        assert not stage.fleet.requests.active


async def test_a_client_that_leaves_ends_the_work() -> None:
    async with staged(1) as stage:

        async def hang(_http: Any) -> Any:
            await asyncio.Event().wait()

        server(stage, 0).plays.append(hang)
        asked = asyncio.ensure_future(ask(stage, "/v1/embeddings"))
        await asyncio.wait_for(server(stage, 0).began.wait(), 20.0)
        asked.cancel()
        await asyncio.wait_for(server(stage, 0).cancelled.wait(), 20.0)
        await until(lambda: not stage.fleet.requests.active)


async def test_control_paths_are_closed_and_can_be_opened() -> None:
    async with staged(allow_paths=("/sleep",)) as stage:
        async with stage.session.post("/wake_up") as response:
            assert response.status == 403
            assert "frontend.allow_paths" in (await response.json())["error"]["message"]
        async with stage.session.post("/sleep?level=1") as response:
            assert response.status == 200
        got = [each.path for at in (0, 1) for each in server(stage, at).got]

    assert got == ["/sleep?level=1"]


async def test_a_redirect_leads_back_to_the_frontend() -> None:
    async with staged(1) as stage:
        location = stage.stubs[0].url + "/v1/files/1?x=1"
        server(stage, 0).plays.append(answer(307, None, Location=location))
        async with stage.session.get("/v1/files", allow_redirects=False) as response:
            assert response.status == 307
            assert response.headers["Location"] == "/v1/files/1?x=1"


async def test_one_model_of_the_fleet_can_be_retrieved() -> None:
    async with staged(models={"a": "org/chat", "b": "embed"}) as stage:
        async with stage.session.get("/v1/models/org/chat") as response:
            assert json.loads(await response.text())["id"] == "org/chat"
        async with stage.session.get("/v1/models/other") as response:
            assert response.status == 404


async def test_a_server_found_dead_is_not_waited_for() -> None:
    async with staged() as stage:

        async def hang(_http: Any) -> Any:
            await asyncio.Event().wait()

        server(stage, 0).plays.append(hang)
        asked = [asyncio.ensure_future(ask(stage, "/v1/embeddings")) for _ in range(2)]
        await asyncio.wait_for(server(stage, 0).began.wait(), 20.0)
        stage.fleet.suspect(stage.instance("a"), "it says nothing any more")
        got = await asyncio.wait_for(asyncio.gather(*asked), 20.0)

    assert [status for status, _ in got] == [200, 200]


async def test_a_server_that_breaks_off_amid_its_answer_cuts_the_clients() -> None:
    """Nobody may take half an answer for a whole one; and it counts as failed, not as cancelled."""
    async with staged(1) as stage:

        async def half(http: Any) -> Any:
            response = web.StreamResponse()
            await response.prepare(http)
            await response.write(b'{"data":')
            await asyncio.sleep(0.05)
            http.transport.abort()
            return response

        server(stage, 0).plays.append(half)
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(stage, "/v1/embeddings")
        await until(lambda: not stage.fleet.requests.active)
        assert stage.metric("requests_total", class_name="normal", outcome="failed") == 1


async def test_a_request_that_kills_servers_on_kept_connections_is_not_taken_for_stale() -> None:
    """A connection that closes under a request looks the same, whether its server lives or not."""
    async with staged(4) as stage:
        for _ in range(8):  # so that a connection to each is kept
            assert (await ask(stage, "/v1/embeddings"))[0] == 200

        def killer(stub: PathServer) -> Play:
            async def play(http: web.Request) -> web.StreamResponse:
                await stub.stop_listening()
                return await drop(http)

            return play

        for at in range(4):
            server(stage, at).plays.append(killer(server(stage, at)))
        status, _ = await ask(stage, "/v1/embeddings")
        down = sum(not stub.listens for stub in stage.stubs)

    assert status == 502
    assert down <= 2
