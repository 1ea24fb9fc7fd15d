"""`/v1/responses` and `/v1/messages`: placed and counted as generation, begun afresh if need be."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.llumnix.frontend.paths.served import PathServer, answer, drop, event, events
from tests.llumnix.frontend.stage import Stage, until

CREATED = event("response.created", response={"id": "resp_1"}, sequence_number=0)
IN_PROGRESS = event("response.in_progress", response={"id": "resp_1"}, sequence_number=1)
WORD = event("response.output_text.delta", delta="hi", sequence_number=2)
COMPLETED = event(
    "response.completed",
    response={"id": "resp_1", "usage": {"output_tokens": 7}},
    sequence_number=3,
)
RESPONSE = CREATED + IN_PROGRESS + WORD + COMPLETED
START = event("message_start", message={"id": "msg_1"})
PING = event("ping")
DELTA = event("content_block_delta", delta={"text": "hi"})
STOP = event("message_stop")
MESSAGE = START + PING + DELTA + STOP

STREAMS = [
    pytest.param("/v1/responses", CREATED + IN_PROGRESS, WORD + COMPLETED, id="responses"),
    pytest.param("/v1/messages", START + PING, DELTA + STOP, id="messages"),
]


@contextlib.asynccontextmanager
async def staged(instances: int = 2, **more: Any) -> AsyncIterator[Stage]:
    async with Stage(instances, engine=PathServer, **more) as stage:
        yield stage


def server(stage: Stage, at: int) -> PathServer:
    stub = stage.stubs[at]
    assert isinstance(stub, PathServer)
    return stub


async def stream(stage: Stage, path: str, **body: Any) -> bytes:
    asked = {"model": "m", "stream": True, **body}
    async with stage.session.post(path, json=asked) as response:
        assert response.status == 200, await response.text()
        read: bytes = await response.read()
        return read


@pytest.mark.parametrize(("path", "silent", "said"), STREAMS)
async def test_a_stream_is_passed_on_byte_for_byte(path: str, silent: bytes, said: bytes) -> None:
    async with staged() as stage:
        whole = silent + said
        server(stage, 0).plays.append(
            events(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
        )
        assert await stream(stage, path) == whole
        assert stage.metric("requests_total", class_name="normal", outcome="finished") == 1


@pytest.mark.parametrize(("path", "silent", "said"), STREAMS)
async def test_as_long_as_nothing_was_said_another_server_begins_afresh(
    path: str, silent: bytes, said: bytes
) -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(events(silent, b": still here\n\n", then="die"))
        server(stage, 1).plays.append(events(silent + said))
        assert await stream(stage, path) == silent + said


@pytest.mark.parametrize(("path", "silent", "said"), STREAMS)
async def test_a_server_whose_first_word_is_an_error_is_replaced(
    path: str, silent: bytes, said: bytes
) -> None:
    async with staged() as stage:
        failed = event("error", error={"type": "server_error", "message": "out of memory"})
        server(stage, 0).plays.append(events(silent, failed))
        server(stage, 1).plays.append(events(silent + said))
        assert await stream(stage, path) == silent + said


@pytest.mark.parametrize(("path", "silent", "said"), STREAMS)
async def test_a_stream_that_breaks_ends_with_an_error_of_its_api(
    path: str, silent: bytes, said: bytes
) -> None:
    async with staged() as stage:
        word = said[: said.index(b"\n\n") + 2]
        server(stage, 0).plays.append(events(silent + word, then="die"))
        got = await stream(stage, path)

        assert got.startswith(silent + word)
        name, data = got[len(silent + word) :].strip().split(b"\n")
        assert name == b"event: error"
        told = json.loads(data.removeprefix(b"data: "))
        assert told["type"] == "error"
        assert "broke" in told["error"]["message"]
        assert stage.metric("requests_total", class_name="normal", outcome="failed") == 1


async def test_the_library_raises_when_a_response_breaks() -> None:
    async with (
        staged() as stage,
        openai.AsyncOpenAI(base_url=stage.url + "/v1", api_key="x", max_retries=0) as client,
    ):
        server(stage, 0).plays.append(events(CREATED + WORD, then="die"))
        answered = await client.responses.create(model="m", input="hi", stream=True)
        with pytest.raises(openai.APIError, match="broke"):
            async for _ in answered:
                pass


@pytest.mark.parametrize("play", [drop, answer(503)], ids=["drop", "503"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_an_answer_that_is_not_streamed_is_fetched_elsewhere(path: str, play: Any) -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(play)
        async with stage.session.post(path, json={"model": "m"}) as response:
            assert (await response.json()) == {"served_by": "b"}


async def test_a_stream_is_listed_as_immovable_with_its_class_and_id() -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(events(CREATED + WORD, then="hang"))
        named = {"X-Request-Id": "mine", "X-Llumnix-Class": "high"}
        asked = {"model": "m", "stream": True}
        async with stage.session.post("/v1/responses", json=asked, headers=named) as response:
            assert response.headers["X-Request-Id"] == "mine"
            await until(lambda: stage.fleet.tally.streams_open)
            async with stage.session.get("/llumnix/requests") as listed:
                (row,) = await listed.json()
        await asyncio.wait_for(server(stage, 0).cancelled.wait(), 20.0)

    assert row["request_id"] == "mine"
    assert (row["class"], row["instance_id"], row["movable"]) == ("high", "a", False)
    assert row["why"]


async def test_it_waits_for_room_as_completions_do() -> None:
    async with staged(1, queue_timeout_s=0.05) as stage:
        stage.instance("a").set_draining(on=True)
        async with stage.session.post("/v1/messages", json={"model": "m"}) as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "overloaded_error"


async def test_the_messages_api_hears_refusals_in_its_own_words() -> None:
    async with (
        staged() as stage,
        stage.session.post("/v1/messages", json={"model": "other"}) as response,
    ):
        assert response.status == 404
        told = await response.json()

    assert told["type"] == "error"
    assert told["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_follow_up_goes_where_the_response_is_stored(streamed: bool) -> None:
    async with staged() as stage:
        play = events(RESPONSE) if streamed else answer(200, {"id": "resp_1", "object": "response"})
        server(stage, 0).plays.append(play)
        asked = {"model": "m", "stream": streamed}
        async with stage.session.post("/v1/responses", json=asked) as response:
            await response.read()
        follow = {"model": "m", "previous_response_id": "resp_1"}
        for _ in range(3):
            async with stage.session.post("/v1/responses", json=follow) as response:
                assert (await response.json())["served_by"] == "a"
            async with stage.session.get("/v1/responses/resp_1") as response:
                assert (await response.json())["served_by"] == "a"
            async with stage.session.post("/v1/responses/resp_1/cancel") as response:
                assert (await response.json())["served_by"] == "a"


async def test_a_response_that_nobody_knows_here_is_asked_for_everywhere() -> None:
    """As after a restart of the frontend."""
    async with staged() as stage:
        server(stage, 0).plays.append(answer(404, {"error": {"message": "not found"}}))
        async with stage.session.get("/v1/responses/resp_9") as response:
            assert (await response.json())["served_by"] == "b"
        for at in (0, 1):
            server(stage, at).plays.append(answer(404, {"error": {"message": "not found"}}))
        async with stage.session.get("/v1/responses/resp_9") as response:
            assert response.status == 404
            assert (await response.json())["error"]["message"] == "not found"


async def test_a_follow_up_of_a_response_unknown_here_finds_its_server() -> None:
    async with staged(3) as stage:
        for at in (0, 1):
            server(stage, at).plays.append(answer(404, {"error": {"message": "not found"}}))
        follow = {"model": "m", "previous_response_id": "resp_9"}
        for _ in range(3):
            async with stage.session.post("/v1/responses", json=follow) as response:
                assert (await response.json())["served_by"] == "c"
        asked = [each.method for at in (0, 1) for each in server(stage, at).got]

    assert asked == ["GET", "GET"]


async def test_a_follow_up_of_a_response_that_died_with_its_server_goes_elsewhere() -> None:
    """Where it is unknown, which the server there says."""
    async with staged() as stage:
        server(stage, 0).plays.append(answer(200, {"id": "resp_1", "object": "response"}))
        async with stage.session.post("/v1/responses", json={"model": "m"}) as response:
            await response.read()
        await stage.stubs[0].stop()
        server(stage, 1).plays.append(answer(404, {"error": {"message": "not found"}}))
        follow = {"model": "m", "previous_response_id": "resp_1"}
        async with stage.session.post("/v1/responses", json=follow) as response:
            assert response.status == 404
            assert (await response.json())["error"]["message"] == "not found"


async def test_tokens_are_counted() -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(events(RESPONSE))
        await stream(stage, "/v1/responses")

        assert stage.metric("output_tokens_total", class_name="normal") == 7


async def test_a_stream_that_has_said_something_outlives_a_false_alarm() -> None:
    """Its server is thought dead, but goes on: it cannot be moved, so it is not cut."""
    async with staged() as stage:
        go_on = asyncio.Event()

        async def play(http: Any) -> Any:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(http)
            await response.write(CREATED + WORD)
            await go_on.wait()
            await response.write(COMPLETED)
            return response

        server(stage, 0).plays.append(play)
        asked = {"model": "m", "stream": True}
        async with stage.session.post("/v1/responses", json=asked) as response:
            assert await response.content.readexactly(len(CREATED + WORD)) == CREATED + WORD
            stage.fleet.suspect(stage.instance("a"), "a poll was late")
            go_on.set()
            assert await response.content.read() == COMPLETED


async def test_a_server_thought_dead_before_it_said_anything_is_left_at_once() -> None:
    async with staged() as stage:
        server(stage, 0).plays.append(events(CREATED, then="hang"))
        server(stage, 1).plays.append(events(RESPONSE))
        got = asyncio.ensure_future(stream(stage, "/v1/responses"))
        await asyncio.wait_for(server(stage, 0).began.wait(), 20.0)
        await until(lambda: stage.fleet.tally.streams_open)
        stage.fleet.suspect(stage.instance("a"), "it says nothing any more")
        assert await asyncio.wait_for(got, 20.0) == RESPONSE


async def test_a_drain_waits_for_what_cannot_be_moved() -> None:
    """On a server without metrics, too: what it runs is known here."""
    async with staged(1, plugged=False) as stage:
        server(stage, 0).plays.append(events(CREATED + WORD, then="hang"))
        asked = {"model": "m", "stream": True}
        async with stage.session.post("/v1/responses", json=asked):
            name = stage.fleet.instances.alive()[0].id
            order = {"instance_id": name, "on": True}
            async with stage.session.post("/llumnix/drain", json=order) as drained:
                assert drained.status == 200

            async def running() -> int:
                async with stage.session.get("/llumnix/fleet") as told:
                    (row,) = (await told.json())["instances"]
                    return int(row["running"])

            async with asyncio.timeout(20.0):
                while await running() != 1:  # noqa: ASYNC110 - what is waited for signals no event
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize("odd", ["\ud800", "a b", "", "x" * 5000, 5, None, ["resp_1"], {"a": 1}])
async def test_what_is_no_id_of_a_response_is_left_to_the_server(odd: object) -> None:
    async with staged() as stage:
        asked = {"model": "m", "previous_response_id": odd}
        async with stage.session.post("/v1/responses", json=asked) as response:
            assert response.status == 200
        assert sum(len(server(stage, at).got) for at in (0, 1)) == 1
