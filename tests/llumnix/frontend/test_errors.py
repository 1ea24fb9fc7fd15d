"""What goes wrong, as clients see it: through plain HTTP and through the `openai` library."""

import asyncio
import json
from collections.abc import AsyncIterator

import openai
import pytest

from tests.llumnix.frontend.splicing.chunks import full_text
from tests.llumnix.frontend.stage import Stage
from tests.llumnix.frontend.stub import TOKENS, Script


@pytest.fixture(name="stage")
async def _stage() -> AsyncIterator[Stage]:
    async with Stage(2, body_limit_bytes=10_000, first_byte_timeout_s=0.3) as stage:
        yield stage


@pytest.fixture(name="client")
async def _client(stage: Stage) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stage.url + "/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="m", prompt="hi")

    assert answer.choices[0].text == full_text(TOKENS)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS


async def test_completion_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="m", prompt="hi", stream=True)

    assert "".join([chunk.choices[0].text async for chunk in stream]) == full_text(TOKENS)


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}]
    )

    assert answer.choices[0].message.content == full_text(TOKENS)


async def test_chat_stream_over_a_migration(stage: Stage, client: openai.AsyncOpenAI) -> None:
    stage.order("m", "a", "b")
    stage.stubs[0].scripts.append(Script(5, then="redirect"))
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    chunks = [chunk async for chunk in stream]

    assert "".join(c.choices[0].delta.content or "" for c in chunks) == full_text(TOKENS)
    assert len({chunk.id for chunk in chunks}) == 1
    assert stage.stubs[1].heard


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["m"]


async def test_unknown_model(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="other", prompt="hi")

    assert caught.value.code == "model_not_found"
    assert "other" in caught.value.message


async def test_negative_max_tokens(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.completions.create(model="m", prompt="hi", max_tokens=-1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_oversized_body(stage: Stage, chunked: bool) -> None:
    """Too large is 413, whether the length is announced or found out."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"prompt":"' + b"x" * 50_000 + b'"}'

    data = body() if chunked else b'{"prompt":"' + b"x" * 50_000 + b'"}'
    async with stage.session.post("/v1/completions", data=data) as response:
        assert response.status == 413
        error = (await response.json())["error"]

    assert error["code"] == "request_too_large"
    assert set(error) == {"message", "type", "param", "code"}


async def test_oversized_body_raises_in_the_library(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.completions.create(model="m", prompt="x" * 50_000)

    assert caught.value.status_code == 413


async def test_bad_json(stage: Stage) -> None:
    async with stage.session.post("/v1/chat/completions", data=b"{nonsense") as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_json"
    assert stage.metric("requests_total", class_name="normal", outcome="rejected") == 1


async def test_unknown_class(stage: Stage) -> None:
    async with stage.post(X_Llumnix_Class="nope") as response:
        assert response.status == 400
        assert "high, normal" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("status", [400, 401])
async def test_an_instances_own_refusal_passes_unchanged(stage: Stage, status: int) -> None:
    """The client's fault as the engine sees it is told in the engine's words, and not retried."""
    stage.stubs[0].scripts.append(Script(status=status))
    async with stage.post() as response:
        assert response.status == status
        assert (await response.json())["error"]["message"] == "a says no"
    assert not stage.stubs[1].heard
    assert stage.metric("requests_total", class_name="normal", outcome="rejected") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [Script(status=500), Script(status=503), Script(0, then="die")])
async def test_a_failing_instance_is_replaced_before_the_first_byte(
    stage: Stage, script: Script, stream: bool
) -> None:
    stage.stubs[0].scripts.append(script)
    async with stage.post(stream=stream) as response:
        assert response.status == 200
    assert len(stage.stubs[1].heard) == 1


async def test_when_every_instance_fails_the_client_is_told_why(stage: Stage) -> None:
    for stub in stage.stubs:
        stub.scripts.extend(Script(status=500) for _ in range(9))
    async with stage.post() as response:
        assert response.status == 502
        assert "says no" in (await response.json())["error"]["message"]
    assert [len(stub.heard) for stub in stage.stubs] == [1, 1]


async def test_a_silent_instance_is_replaced_once(stage: Stage) -> None:
    """First-byte deadline: the hung instance is cancelled, another answers."""
    stage.stubs[0].scripts.append(Script(silent=True))
    async with stage.post() as response:
        assert response.status == 200
        await response.read()
    await asyncio.wait_for(stage.stubs[0].cancelled.wait(), 10.0)


async def test_two_silent_instances_are_a_timeout(stage: Stage) -> None:
    for stub in stage.stubs:
        stub.scripts.append(Script(silent=True))
    async with stage.post() as response:
        assert response.status == 504
        assert (await response.json())["error"]["code"] == "upstream_timeout"


async def test_a_stream_that_stands_still_is_carried_on_elsewhere() -> None:
    """Read-idle timeout: silence within a stream counts as death."""
    async with Stage(2, idle_timeout_s=0.3) as stage:
        stage.stubs[0].scripts.append(Script(4, then="hang"))
        got = await stage.stream()

        assert b'"finish_reason":"length"' in got
        assert len(stage.stubs[1].heard) == 1


async def test_a_stream_that_fails_for_good_raises_in_the_library() -> None:
    """An error event within a stream is an APIError for `openai` users, not a silent end."""
    async with (
        Stage(1, max_attempts=2) as stage,
        openai.AsyncOpenAI(base_url=stage.url + "/v1", api_key="x", max_retries=0) as client,
    ):
        stage.stubs[0].scripts.extend(Script(3, then="leave") for _ in range(9))
        stream = await client.completions.create(model="m", prompt="", stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


async def test_no_instance_means_a_bounded_wait() -> None:
    async with Stage(1, queue_timeout_s=0.05) as stage:
        stage.instance("a").set_draining(on=True)
        async with stage.post() as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1


async def test_a_forged_resume_field_is_stripped_and_counted(stage: Stage) -> None:
    forged = {"llumnix": {"request_id": "x", "output_token_ids": [1], "signature": "00"}}
    async with stage.post({"kv_transfer_params": {**forged, "other": 1}}) as response:
        assert response.status == 200
    heard = stage.stubs[0].heard[0]

    assert heard.resume is None
    assert heard.body["kv_transfer_params"].keys() == {"other", "llumnix_request"}
    assert stage.metric("control_frames_refused_total", reason="client_resume_field") == 1


@pytest.mark.parametrize("then", ["redirect", "die"])
async def test_an_answer_that_is_not_streamed_survives_too(stage: Stage, then: str) -> None:
    """Moved or orphaned, a whole answer is fetched elsewhere; the client sees just the answer."""
    stage.order("m", "a", "b")
    stage.stubs[0].scripts.append(Script(3, then=then))
    async with stage.post(stream=False, X_Request_Id="r") as response:
        answer = json.loads(await response.read())

    assert answer["choices"][0]["text"] == full_text(TOKENS)
    assert answer["choices"][0]["finish_reason"] == "length"
    resume = stage.stubs[1].heard[0].resume
    assert (resume or {}).get("migration_id") == ("m" if then == "redirect" else None)
