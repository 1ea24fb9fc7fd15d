"""Long answers are written in slices, and are those that would be written whole."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet import view
from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.http.slices import in_slices, json_list, json_object, send_in_slices
from policies.types import RequestId
from tests.llumnix.frontend.stage import Stage

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(rows=st.lists(PLAIN, max_size=4))
def test_a_list_is_written_as_it_would_be_whole(rows: list[object]) -> None:
    assert "".join(json_list(iter(rows))) == json.dumps(rows)


@given(
    plain=st.dictionaries(st.text(max_size=3), PLAIN, max_size=3), rows=st.lists(PLAIN, max_size=3)
)
def test_an_object_is_written_as_it_would_be_whole(
    plain: dict[str, object], rows: list[object]
) -> None:
    whole = {**plain, "rows": []}

    assert "".join(json_object(whole, "rows", iter(rows))) == json.dumps({**whole, "rows": rows})


def slow(count: int, text: str = "x") -> Iterator[str]:
    for _ in range(count):
        time.sleep(0.001)
        yield text


async def test_others_run_between_slices() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    taken = await in_slices(slow(40))
    counting.cancel()

    assert taken == ["x"] * 40
    assert turns >= 8


@pytest.mark.parametrize("count", [3, 40])
async def test_an_answer_arrives_whole_however_long(count: int) -> None:
    text = '"' + "ü" * 10_000 + '", '

    async def handler(http: web.Request) -> web.StreamResponse:
        return await send_in_slices(http, slow(count, text))

    app = web.Application()
    app.add_routes([web.get("/", handler)])
    async with TestClient(TestServer(app)) as client, client.get("/") as response:
        assert response.content_type == "application/json"
        assert response.charset == "utf-8"
        assert await response.text() == text * count


async def test_the_lists_of_a_large_fleet_are_what_its_status_says() -> None:
    """Whatever is long: instances, requests, events."""
    async with Stage(3) as stage:
        for number in range(2000):
            request = ActiveRequest(RequestId(f"r{number}"), "normal", float(number))
            stage.fleet.requests.open(request)
            stage.fleet.events.add(1.0, "something", f"number {number}")
        async with stage.session.get("/llumnix/fleet") as response:
            told = await response.json()
        status = view.fleet_status(stage.fleet, 0, stage.frontend_config.queue_limit).to_json()
        assert told.keys() == status.keys()
        assert told["classes"] == list(status["classes"])
        assert [each.keys() for each in told["instances"]] == [
            each.keys() for each in status["instances"]
        ]
        async with stage.session.get("/llumnix/requests") as response:
            requests = await response.json()
        assert [each["request_id"] for each in requests] == [f"r{n}" for n in range(2000)]
        async with stage.session.get("/llumnix/events") as response:
            news = await response.json()
        assert news["next"] == stage.fleet.events.seq
        assert [each["text"] for each in news["events"]] == [
            each.text for each in stage.fleet.events.after(0)
        ]
        async with asyncio.TaskGroup() as scrapes:
            pages = [scrapes.create_task(scrape(stage)) for _ in range(3)]
        assert all('llumnix_instance_up{instance_id="a"} 1.0' in page.result() for page in pages)


async def scrape(stage: Stage) -> str:
    async with stage.session.get("/metrics") as response:
        return await response.text()
