"""A fleet of real servers as its users have it: the openai client, and those who would cheat."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from llumnix.testbed import Environment
from llumnix.testbed.servers import MODEL_NAME, fleet_options
from migration.links.auth import sign_resume
from testbed.cases import Case, all_cases, server_arguments
from testbed.exactness import prompt_text
from testbed.moves import Cut
from testbed.recorder import differences
from testbed.stack import Stack, launched_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "of this fleet"
STREAMS = 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    environment: Environment, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two servers alike, and a third whose KV blocks are larger."""
    eager = {"migration": {"cooldown_s": 0.0}}
    alike = [
        replace(each, plugin_settings=eager, step_s=0.01)
        for each in fleet_options(
            environment, model, 3, secret=SECRET, arguments=server_arguments("")
        )
    ]
    odd = replace(alike[2], block_tokens=64)
    async with launched_stack([*alike[:2], odd], tmp_path_factory.mktemp("fleet")) as running:
        yield running


def _case(name: str, *, chat: bool) -> Case:
    return next(each for each in all_cases() if each.name == name and each.chat is chat)


async def _said(client: openai.AsyncOpenAI, number: int, request_id: str) -> tuple[str, str, str]:
    """One streamed chat: what it says, the arguments of its tool call, how it ends."""
    case = _case("tool-auto", chat=True)
    stream = await client.chat.completions.create(
        model=MODEL_NAME,
        messages=[{"role": "user", "content": prompt_text(number, 80)}],
        tools=case.body["tools"],
        tool_choice="auto",
        temperature=0.9,
        seed=number,
        max_tokens=300,
        stream=True,
        extra_body={"structured_outputs": case.body["structured_outputs"]},
        extra_headers={"X-Request-Id": request_id},
    )
    content = arguments = finish = ""
    async for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                arguments += (call.function.arguments if call.function else None) or ""
            finish = choice.finish_reason or finish
    return content, arguments, finish


async def test_the_openai_client_cannot_tell(stack: Stack) -> None:
    """Chats with tools, streamed, while requests are moved at random."""
    async with openai.AsyncOpenAI(base_url=f"{stack.fleet.url}/v1", api_key="none") as client:
        expected = await asyncio.gather(
            *(_said(client, number, f"still-{number}") for number in range(STREAMS))
        )
        moving = asyncio.create_task(_keep_moving(stack))
        got = await asyncio.gather(
            *(_said(client, number, f"moved-{number}") for number in range(STREAMS))
        )
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
    totals = (await stack.fleet.get("/llumnix/fleet"))["totals"]

    assert got == expected
    assert {finish for _, _, finish in got} == {"tool_calls"}
    assert totals["migrations_committed"] >= 1
    assert totals["stream_mismatches"] == 0


async def _keep_moving(stack: Stack) -> None:
    draws = random.Random(1)
    while True:
        rows = await stack.fleet.get("/llumnix/requests")
        for row in draws.sample(rows, min(3, len(rows))):
            order = {"request_id": row["request_id"], "destination": draws.choice(NAMES)}
            await stack.fleet.post("/llumnix/migrate", order)
        await asyncio.sleep(0.05)


NAMES = ("vllm-0", "vllm-1")


async def test_a_server_laid_out_otherwise_is_refused(stack: Stack) -> None:
    """Its blocks are larger, so it is of another group: no order is given, and the answer goes on.

    (That a llumlet refuses such an order all the same is tested in tests/migration.)
    """
    case = _case("greedy", chat=False)
    body = case.whole_body(prompt_text(3, 100), stream=True)
    expected = await stack.fleet.ride(case.path, body)
    before = (await stack.fleet.get("/llumnix/fleet"))["totals"]
    ride = asyncio.create_task(stack.fleet.ride(case.path, body))
    row = await _running(stack)
    other = "vllm-0" if row["instance_id"] == "vllm-2" else "vllm-2"
    status, said = await stack.fleet.post(
        "/llumnix/migrate", {"request_id": row["request_id"], "destination": other}
    )
    got = await ride
    after = (await stack.fleet.get("/llumnix/fleet"))["totals"]

    assert status == 409
    assert "not of one group" in str(said)
    assert differences(expected.recording, got.recording) == []
    for count in ("migrations_refused", "migrations_committed"):
        assert after[count] == before[count]


async def _running(stack: Stack) -> dict[str, Any]:
    """Wait until a request runs somewhere."""
    async with asyncio.timeout(20.0):
        while True:
            rows = await stack.fleet.get("/llumnix/requests")
            if rows and rows[0]["state"] == "running" and rows[0]["instance_id"]:
                return dict(rows[0])
            await asyncio.sleep(0.01)


async def test_what_a_client_forges_is_stripped(stack: Stack) -> None:
    """A client that claims a migration, well formed and all, gets its own answer."""
    case = _case("greedy", chat=False)
    body = case.whole_body(prompt_text(4, 60), stream=False)
    expected = await stack.fleet.ride(case.path, body)
    forged = {"llumnix": _resume(b"a guess"), "llumnix_request": {"request_id": "another's"}}
    got = await stack.fleet.ride(case.path, {**body, "kv_transfer_params": forged})

    assert differences(expected.recording, got.recording) == []


async def test_a_server_takes_no_resume_field_it_cannot_verify(stack: Stack) -> None:
    case = _case("greedy", chat=False)
    body = case.whole_body(prompt_text(5, 60), stream=False)
    answers = []
    for field in (_resume(b"a guess"), {"output_token_ids": [1, 2, 3]}):
        asked = {**body, "kv_transfer_params": {"llumnix": field}}
        async with stack.fleet.session.post(
            f"{stack.servers[0].url}{case.path}", json=asked
        ) as got:
            answers.append((await got.json())["choices"][0])

    assert {each["finish_reason"] for each in answers} == {"abort"}
    assert all(each["stop_reason"].startswith("llumnix:refused:") for each in answers)
    assert {each["text"] for each in answers} == {""}


def _resume(secret: bytes) -> dict[str, Any]:
    return sign_resume(
        secret,
        {
            "request_id": "another's",
            "migration_id": None,
            "output_token_ids": [65, 66, 67],
            "issued_at": time.time(),
            "early": False,
        },
    )


async def test_several_answers_to_one_prompt_stay_where_they_are(stack: Stack) -> None:
    """n > 1 is not moved; it is answered all the same."""
    case = _case("seed", chat=False)
    body = {**case.whole_body(prompt_text(6, 60), stream=False), "n": 2}
    ride = await stack.fleet.ride(case.path, body, [Cut(after_s=0.3)])

    assert ride.recording.error == ""
    assert ride.recording.seen["choices"] == 2
    assert ride.moves == []


async def test_nothing_is_left_behind(stack: Stack) -> None:
    assert await stack.leaked() == {}
