"""vLLM servers as fleets run them: with an API key, over https, with adapters, with every API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
import trustme

from llumnix.testbed import Environment
from llumnix.testbed.servers import MODEL_NAME, fleet_options
from testbed.adapter import write_adapter
from testbed.cases import all_cases
from testbed.exactness import prompt_text
from testbed.moves import Cut
from testbed.recorder import differences
from testbed.stack import Stack, launched_stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.core]

KEY = "sk-of-the-fleet"
ADAPTER = "sql"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    environment: Environment, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two servers with a key, https and room for adapters, and what a user types for them."""
    folder = tmp_path_factory.mktemp("door")
    authority, certificate, key_file = trustme.CA(), folder / "server.pem", folder / "server.key"
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key_file))
    (folder / "key").write_text(f"{KEY}\n")
    options = [
        replace(
            each,
            api_key=KEY,
            certificate=(certificate, key_file),
            step_s=0.01,
            arguments=("--enable-lora", "--max-loras=2", "--max-lora-rank=8"),
            variables={
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "VLLM_ENABLE_RESPONSES_API_STORE": "1",
            },
        )
        for each in fleet_options(environment, model, 2, secret="of this fleet")
    ]
    typed = (
        f"--instance-api-key-file={folder / 'key'}",
        f"--instance-ca-file={folder / 'ca.pem'}",
        "--policy=round-robin",
        "--no-migration",
    )
    async with launched_stack(options, folder, typed) as running:
        yield running


def _client(stack: Stack) -> openai.AsyncOpenAI:
    # The servers' key is the frontend's business: clients need none, or send their own.
    return openai.AsyncOpenAI(base_url=f"{stack.fleet.url}/v1", api_key="none", max_retries=0)


async def test_a_fleet_with_keys_and_https_serves_and_moves(stack: Stack) -> None:
    case = next(each for each in all_cases() if each.name == "greedy" and each.chat)
    body = case.whole_body(prompt_text(1, 100), stream=True)
    still = await stack.fleet.ride(case.path, body)
    moved = await stack.fleet.ride(case.path, body, [Cut(letters=10)])

    assert moved.moves, moved.failures
    assert differences(still.recording, moved.recording) == []


async def test_an_adapter_loaded_at_run_time_is_served_at_once(
    stack: Stack, model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / ADAPTER, model)
    async with _client(stack) as client:
        with pytest.raises(openai.NotFoundError):
            await _greedy(client, ADAPTER)
        order = {"lora_name": ADAPTER, "lora_path": str(adapter)}
        for server in stack.servers:
            await _post(stack, f"{server.url}/v1/load_lora_adapter", order)
        tuned, plain = await _greedy(client, ADAPTER), await _greedy(client, MODEL_NAME)
        names = {each.id async for each in client.models.list()}

    assert tuned != plain
    assert names == {MODEL_NAME, ADAPTER}


async def test_clients_cannot_load_adapters(stack: Stack, tmp_path: Path) -> None:
    order = {"lora_name": "mine", "lora_path": str(tmp_path)}
    async with stack.fleet.session.post(
        f"{stack.fleet.url}/v1/load_lora_adapter", json=order
    ) as answer:
        assert answer.status in (403, 404)


async def test_responses_are_what_the_server_says(stack: Stack) -> None:
    async with _client(stack) as client:
        whole = await client.responses.create(
            model=MODEL_NAME, input="tell me", max_output_tokens=20, temperature=0.0
        )
        parts, last = "", None
        async with await client.responses.create(
            model=MODEL_NAME, input="tell me", max_output_tokens=20, temperature=0.0, stream=True
        ) as stream:
            async for event in stream:
                last = event.type
                if event.type == "response.output_text.delta":
                    parts += event.delta

    assert parts == whole.output_text
    assert last in ("response.completed", "response.incomplete")


async def test_a_response_is_found_where_its_state_is(stack: Stack) -> None:
    """Two servers, each with the state of its own answers: a follow-up must go to the right one."""
    async with _client(stack) as client:
        firsts = [
            await client.responses.create(
                model=MODEL_NAME, input=f"number {number}", max_output_tokens=5
            )
            for number in range(4)
        ]
        # In another order than they were made in: the servers' turns would not fit by chance.
        firsts.reverse()
        again = [await client.responses.retrieve(each.id) for each in firsts]
        followed = [
            await client.responses.create(
                model=MODEL_NAME,
                input="and then",
                previous_response_id=each.id,
                max_output_tokens=5,
            )
            for each in firsts
        ]

    assert [each.output_text for each in again] == [each.output_text for each in firsts]
    assert all(each.output_text for each in followed)


async def test_messages_stream_whole_and_are_counted(stack: Stack) -> None:
    body = {
        "model": MODEL_NAME,
        "max_tokens": 300,
        "stream": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": "tell me"}],
    }
    streaming = asyncio.create_task(_read_messages(stack, body))
    row = await _running(stack)
    data = await streaming

    assert row["movable"] is False
    assert b"event: message_start" in data
    assert data.rstrip().endswith(b'data: {"type":"message_stop"}')


async def _read_messages(stack: Stack, body: dict[str, Any]) -> bytes:
    async with stack.fleet.session.post(f"{stack.fleet.url}/v1/messages", json=body) as answer:
        assert answer.status == 200
        return await answer.read()


async def _running(stack: Stack) -> dict[str, Any]:
    async with asyncio.timeout(30.0):
        while True:
            rows = await stack.fleet.get("/llumnix/requests")
            for row in rows:
                if row["state"] == "running":
                    return dict(row)
            await asyncio.sleep(0.02)


async def _greedy(client: openai.AsyncOpenAI, model: str) -> str:
    answer = await client.completions.create(
        model=model, prompt="select", max_tokens=16, temperature=0.0
    )
    return answer.choices[0].text


async def _post(stack: Stack, url: str, body: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    # Which certificate it is was tested by the frontend.
    request = stack.fleet.session.post(url, json=body, headers=headers, ssl=False)
    async with request as answer:
        assert answer.status == 200, await answer.text()
