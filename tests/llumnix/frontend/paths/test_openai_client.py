"""The `openai` library on these paths: what it sends arrives, what goes wrong it raises."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.llumnix.frontend.paths.served import PathServer, answer, drop
from tests.llumnix.frontend.stage import Stage

EMBEDDING = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


@contextlib.asynccontextmanager
async def connected(
    instances: int = 2, base: str = "/v1", **more: Any
) -> AsyncIterator[tuple[Stage, openai.AsyncOpenAI]]:
    async with (
        Stage(instances, engine=PathServer, **more) as stage,
        openai.AsyncOpenAI(base_url=stage.url + base, api_key="k", max_retries=0) as client,
    ):
        yield stage, client


def play(stage: Stage, *plays: Any) -> None:
    """Let every server play these."""
    for stub in stage.stubs:
        assert isinstance(stub, PathServer)
        stub.plays.extend(plays)


@pytest.mark.parametrize("base", ["/v1", "/v1/", "/v1/v1", "//v1"])
async def test_embeddings_however_the_base_url_is_spelled(base: str) -> None:
    async with connected(base=base) as (stage, client):
        play(stage, answer(200, EMBEDDING))
        told = await client.embeddings.create(model="m", input="hi", encoding_format="float")

    assert told.data[0].embedding == [0.5, 1.0]


async def test_an_unknown_model_is_not_found_on_every_path() -> None:
    async with connected() as (_, client):
        for asked in (
            client.embeddings.create(model="other", input="hi"),
            client.responses.create(model="other", input="hi"),
            client.audio.transcriptions.create(model="other", file=("a.wav", b"RIFF")),
            client.models.retrieve("other"),
        ):
            with pytest.raises(openai.NotFoundError, match="`other` does not exist"):
                await asked


async def test_a_file_goes_to_a_server_of_its_model() -> None:
    async with connected(models={"a": "chat", "b": "whisper"}) as (stage, client):
        play(stage, answer(200, {"text": "heard"}))
        for _ in range(2):
            told = await client.audio.transcriptions.create(
                model="whisper", file=("a.wav", b"RIFF" * 100_000)
            )
            play(stage, answer(200, {"text": "heard"}))
        first, second = stage.stubs
        assert isinstance(first, PathServer)
        assert isinstance(second, PathServer)

        assert told.text == "heard"
        assert (len(first.got), len(second.got)) == (0, 2)


async def test_a_full_fleet_is_a_rate_limit() -> None:
    async with connected() as (stage, client):
        busy = {"error": {"message": "too busy", "type": "RateLimitError"}}
        play(stage, answer(429, busy, Retry_After="3"))
        with pytest.raises(openai.RateLimitError, match="too busy") as caught:
            await client.embeddings.create(model="m", input="hi")

    assert caught.value.response.headers["Retry-After"] == "3"


async def test_a_servers_own_words_are_kept() -> None:
    async with connected() as (stage, client):
        play(stage, answer(400, {"error": {"message": "input is too long", "code": 400}}))
        with pytest.raises(openai.BadRequestError, match="input is too long"):
            await client.embeddings.create(model="m", input="hi")


async def test_a_fleet_that_breaks_is_an_error_of_its_own() -> None:
    async with connected() as (stage, client):
        play(stage, drop, drop)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.embeddings.create(model="m", input="hi")

    assert caught.value.status_code == 502


async def test_a_control_path_is_denied() -> None:
    async with connected() as (_, client):
        with pytest.raises(openai.PermissionDeniedError, match="allow_paths"):
            await client.post("/load_lora_adapter", cast_to=object, body={"lora_name": "x"})
