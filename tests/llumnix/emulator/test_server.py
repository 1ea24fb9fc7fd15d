"""The emulated engine over HTTP: answers, errors, and clients that leave."""

import asyncio
import json

import aiohttp
import pytest

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.main import run_emulator
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import chat_prompt, decode
from tests.llumnix.emulator.engines import some_prompt
from tests.llumnix.emulator.servers import (
    CHAT,
    COMPLETIONS,
    ENDLESS,
    MESSAGES,
    PROMPT,
    SECRET,
    arrival,
    body_for,
    departure,
    serving,
)


def prompt_of(path: str) -> list[int]:
    return PROMPT if path == COMPLETIONS else chat_prompt(MESSAGES)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_an_answer_is_what_the_model_says(path: str) -> None:
    """Streamed or not: the very tokens, their text, and the usage."""
    expected = expected_output(prompt_of(path), 20)
    body = body_for(path, stream_options={"include_usage": True})
    async with serving() as server:
        for answer in (await server.whole(path, body), await server.streamed(path, body)):
            assert tuple(answer.token_ids) == expected
            assert answer.text == decode(expected)
            assert (answer.finish_reason, answer.stop_reason) == ("length", None)
            prompt_tokens = len(prompt_of(path))
            assert answer.usage == {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 20,
                "total_tokens": prompt_tokens + 20,
            }


async def test_many_answers_at_once_are_all_right() -> None:
    """Batched, chunked, queued and preempted, each gets its own tokens."""
    async with serving(capacity_tokens=512, max_model_len=256) as server:
        asked = [(some_prompt(20 + 3 * n, n), 5 + n) for n in range(30)]
        answers = await asyncio.gather(
            *(
                server.streamed(COMPLETIONS, body_for(COMPLETIONS, prompt=prompt, max_tokens=n))
                for prompt, n in asked
            )
        )
        for (prompt, n), answer in zip(asked, answers, strict=True):
            assert tuple(answer.token_ids) == expected_output(prompt, n)
        assert server.instance.engine.blocks.allocated_blocks == 0
        assert server.instance.requests == {}


async def test_an_answer_may_end_by_itself() -> None:
    """The end token finishes it with `stop`, counts, and has no text."""
    expected = expected_output(PROMPT, 900, ignore_eos=False)
    async with serving() as server:
        body = body_for(COMPLETIONS, max_tokens=900, ignore_eos=False)
        answer = await server.streamed(COMPLETIONS, body)
        assert tuple(answer.token_ids) == expected
        assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
        assert answer.text == decode(expected[:-1])


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_a_stop_string_cuts_the_text(path: str) -> None:
    """Streamed or not, nothing of it is sent, and the stop reason names it."""
    text = decode(expected_output(prompt_of(path), 20))
    stop = text[33:39]
    async with serving() as server:
        body = body_for(path, stop=[stop])
        for answer in (await server.whole(path, body), await server.streamed(path, body)):
            assert answer.text == text[: text.index(stop)]
            assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
            assert len(answer.token_ids) < 20


async def test_every_token_is_a_chunk_of_its_own() -> None:
    """With the id the client gave, and the token ids last in the choice."""
    async with serving() as server:
        answer = await server.streamed(
            COMPLETIONS, body_for(COMPLETIONS), **{"X-Request-Id": "abc"}
        )
        assert [len(chunk["choices"][0]["token_ids"]) for chunk in answer.chunks] == [1] * 20
        assert {chunk["id"] for chunk in answer.chunks} == {"cmpl-abc"}
        assert {list(chunk["choices"][0])[-1] for chunk in answer.chunks} == {"token_ids"}
        chat = await server.streamed(CHAT, body_for(CHAT), **{"X-Request-Id": "abc"})
        assert {chunk["id"] for chunk in chat.chunks} == {"chatcmpl-abc"}
        assert chat.chunks[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_token_ids_are_only_told_when_asked_for() -> None:
    """OpenAI's shape otherwise."""
    async with serving() as server:
        body = body_for(COMPLETIONS, return_token_ids=None)
        for answer in (
            await server.whole(COMPLETIONS, body),
            await server.streamed(COMPLETIONS, body),
        ):
            assert "token_ids" not in answer.chunks[0]["choices"][0]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{not json", 400, None),
        (b'{"prompt":"a","max_tokens":-5}', 400, None),
        (b'{"prompt":"a","max_tokens":5000}', 400, "context_length_exceeded"),
        (b'{"prompt":"a","model":"gpt-9"}', 404, "model_not_found"),
        (b'{"prompt":"' + b"a" * 5_000 + b'"}', 413, None),
    ],
)
async def test_errors_have_openais_shape(body: bytes, status: int, code: str | None) -> None:
    """With a message that says what to do."""
    async with (
        serving(max_body_bytes=4_096) as server,
        server.session.post(COMPLETIONS, data=body) as response,
    ):
        assert response.status == status
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert error["message"]


async def test_unknown_paths_methods_and_classes_are_refused() -> None:
    """In the same shape."""
    async with serving() as server:
        for path, status in (("/v1/other", 404), ("/health", 405)):
            got, answer = await server.post(path, {})
            assert got == status
            assert answer["error"]["message"]
        headers = {"X-Llumnix-Class": "platinum"}
        got, answer = await server.post(COMPLETIONS, body_for(COMPLETIONS), headers)
        assert got == 400
        assert "high, normal" in answer["error"]["message"]


async def test_an_id_in_use_is_refused() -> None:
    """Two streams of one id could not be told apart."""
    async with serving(speed=ENDLESS) as server:
        headers = {"X-Request-Id": "twice"}
        first = asyncio.create_task(server.post(COMPLETIONS, body_for(COMPLETIONS), headers))
        await arrival(server)
        status, answer = await server.post(COMPLETIONS, body_for(COMPLETIONS), headers)
        assert (status, answer["error"]["code"]) == (409, "request_id_in_use")
        first.cancel()


async def test_a_drained_or_full_instance_takes_nothing_new() -> None:
    """503, and when to come again."""
    async with serving() as server:
        server.instance.terminating = True
        async with server.session.post(COMPLETIONS, json=body_for(COMPLETIONS)) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await response.json())["error"]["code"] == "draining"
    async with serving(max_waiting=0) as server:
        status, answer = await server.post(COMPLETIONS, body_for(COMPLETIONS))
        assert (status, answer["error"]["code"]) == (503, "queue_full")


@pytest.mark.parametrize(
    ("stream", "lines"),
    [(True, 2), (True, 0), (False, 0)],
    ids=["while streaming", "before the first byte", "not streaming"],
)
async def test_a_client_that_leaves_cancels_its_request(stream: bool, lines: int) -> None:
    """At once: its blocks are free although the step in flight never ends."""
    async with serving(speed=1.0 if lines else ENDLESS) as server:
        body = body_for(COMPLETIONS, stream=stream, max_tokens=900)
        port = server.running.url.rpartition(":")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        data = json.dumps(body).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await arrival(server)
        for _ in range(lines):
            await reader.readuntil(b"data: ")
        await server.freeze()
        assert server.instance.requests
        writer.close()
        await departure(server)
        assert server.instance.engine.blocks.allocated_blocks == 0
        assert server.instance.engine.waiting == 0


async def test_pages_tell_what_the_instance_is() -> None:
    """Models, health, vLLM's metrics, and our own."""
    async with serving(instance_id="i3") as server:
        await server.whole(COMPLETIONS, body_for(COMPLETIONS))
        assert await server.get("/health") == (200, "")
        _, models = await server.get("/v1/models")
        (model,) = json.loads(models)["data"]
        assert (model["id"], model["max_model_len"]) == ("toy", 1024)
        _, metrics = await server.get("/metrics")
        assert 'vllm:num_requests_running{model_name="toy"} 0\n' in metrics
        assert 'vllm:cache_config_info{block_size="16",num_gpu_blocks="128"} 1\n' in metrics
        assert 'vllm:kv_cache_usage_perc{model_name="toy"} 0' in metrics
        _, about = await server.get("/llumnix/instance")
        assert json.loads(about) == {
            "instance_id": "i3",
            "model": "toy",
            "max_model_len": 1024,
            "block_tokens": 16,
            "capacity_tokens": 2048,
            "control_host": "127.0.0.1",
            "control_port": server.running.control_port,
            "speed": 1000.0,
            "emulated": True,
            "protocol": 3,
            "layout": EmulatorHooks(server.running.instance).layout().digest(),
        }
        assert server.running.control_port > 0
        _, stats = await server.get("/llumnix/stats")
        page = json.loads(stats)
        assert page["lag"]["steps"] >= 20
        assert page["blocks"] == {"total": 128, "free": 128, "allocated": 0, "reserved": 0}
        assert page["decode_step_ms"]["p50"] == pytest.approx(1.015, abs=0.01)
        assert (page["running"], page["waiting"], page["preemptions"]) == (0, 0, 0)


async def test_without_a_secret_it_is_a_plain_server() -> None:
    """No llumlet, and the page that would name its port is not there."""
    async with serving(secret=b"") as server:
        assert server.running.control_port == 0
        status, _ = await server.get("/llumnix/instance")
        assert status == 404
        answer = await server.whole(COMPLETIONS, body_for(COMPLETIONS))
        assert tuple(answer.token_ids) == expected_output(PROMPT, 20)


async def test_it_announces_itself_and_stops_when_cancelled() -> None:
    """What a launcher reads is where it really serves; afterwards the port is closed."""
    told: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    config = EmulatorConfig(instance_id="i9", preset="toy", model="toy")
    running = asyncio.create_task(run_emulator(config, SECRET, told.put_nowait))
    ready = await asyncio.wait_for(told.get(), 10)
    assert ready["instance_id"] == "i9"
    async with aiohttp.ClientSession(str(ready["url"])) as session:
        async with session.get("/health") as response:
            assert response.status == 200
        async with session.get("/llumnix/instance") as response:
            assert (await response.json())["control_port"] == ready["control_port"]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get("/health")


async def test_the_metrics_are_readable_by_prometheus() -> None:
    """The official parser takes every line."""
    from prometheus_client.parser import text_string_to_metric_families

    async with serving() as server:
        _, text = await server.get("/metrics")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names == {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
        "vllm:num_preemptions",
    }
