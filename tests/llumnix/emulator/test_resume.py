"""Redirect and resume over HTTP: a stream goes on elsewhere, exactly."""

import asyncio
import time
from typing import Any

import pytest

from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import decode
from llumnix.emulator.requests import Sampling
from migration.engine import Gone, RequestState
from policies.types import MigrationId, RequestId
from tests.llumnix.emulator.servers import (
    CHAT,
    COMPLETIONS,
    ENDLESS,
    PROMPT,
    SECRET,
    Server,
    arrival,
    body_for,
    departure,
    progress,
    resume_field,
    serving,
)

EXPECTED = expected_output(PROMPT, 20)
ID = {"X-Request-Id": "r"}


def resumed(migration_id: str | None, outputs: list[int] | None, **more: Any) -> dict[str, Any]:
    return {**body_for(COMPLETIONS), **more, **resume_field("r", migration_id, outputs)}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("known", [0, 1, 7, 19])
async def test_recomputing_goes_on_exactly(known: int, stream: bool) -> None:
    """The answer is replayed from its first token, and what follows is what always followed."""
    async with serving() as server:
        ask = server.streamed if stream else server.whole
        answer = await ask(COMPLETIONS, resumed(None, list(EXPECTED[:known])))
        assert tuple(answer.token_ids) == EXPECTED
        assert answer.text == decode(EXPECTED)
        assert answer.finish_reason == "length"
        if not stream:
            assert answer.usage == {
                "prompt_tokens": 40,
                "completion_tokens": 20,
                "total_tokens": 60,
            }


async def test_a_replay_does_not_wait_for_the_prefill() -> None:
    """What is known is sent at once, before anything is computed."""
    async with (
        serving(speed=ENDLESS) as server,
        server.session.post(
            COMPLETIONS, json=resumed(None, list(EXPECTED[:7]), stream=True)
        ) as response,
    ):
        seen = b""
        while seen.count(b"data: ") < 7:
            seen += await response.content.readany()
        assert seen.count(b"data: ") == 7
        assert server.running.loop.lag.steps == 0


async def test_a_complete_answer_is_only_replayed() -> None:
    """Its engine died between the last token and the end of the stream."""
    async with serving(speed=ENDLESS) as server:
        answer = await server.streamed(COMPLETIONS, resumed(None, list(EXPECTED)))
        assert tuple(answer.token_ids) == EXPECTED
        assert answer.finish_reason == "length"
        assert server.running.loop.lag.steps == 0


async def test_an_unknown_migration_with_known_outputs_is_recomputed() -> None:
    """The request never arrived here, but nothing is lost."""
    async with serving() as server:
        answer = await server.streamed(COMPLETIONS, resumed("never", list(EXPECTED[:5])))
        assert tuple(answer.token_ids) == EXPECTED


async def test_an_unknown_migration_without_outputs_is_a_conflict() -> None:
    """There is nothing to go on from."""
    async with serving() as server:
        status, answer = await server.post(COMPLETIONS, resumed("never", None))
        assert (status, answer["error"]["code"]) == (409, "unknown_migration")


@pytest.mark.parametrize(
    "change",
    [
        {"signature": "00" * 32},
        {"signature": None},
        {"output_token_ids": [300]},
        {"migration_id": "other"},
        {"request_id": "other"},
        {"issued_at": time.time() + 10_000},
        {"early": True},
    ],
)
async def test_a_forged_resume_is_refused_and_counted(change: dict[str, Any]) -> None:
    """Nobody claims somebody else's answer, or puts words into it."""
    body = resumed("m", [])
    body["kv_transfer_params"]["llumnix"].update(change)
    if change == {"signature": None}:
        del body["kv_transfer_params"]["llumnix"]["signature"]
    async with serving() as server:
        status, answer = await server.post(COMPLETIONS, body)
        assert (status, answer["error"]["code"]) == (403, "bad_resume_signature")
        _, stats = await server.get("/llumnix/stats")
        assert '"resumes_refused": 1' in stats
        assert server.instance.requests == {}


async def test_an_early_claim_is_a_conflict() -> None:
    """This engine holds a request that has come, and none that is still to come."""
    async with serving() as server:
        body = {**body_for(COMPLETIONS), **resume_field("r", "m", [], early=True)}
        status, answer = await server.post(COMPLETIONS, body)
        assert (status, answer["error"]["code"]) == (409, "early_claim")
        assert server.instance.requests == {}


async def test_a_plain_server_resumes_nothing() -> None:
    """Without a secret there is no telling who asks."""
    async with serving(secret=b"") as server:
        status, _ = await server.post(COMPLETIONS, resumed(None, []))
        assert status == 403


async def test_a_drained_instance_still_takes_continuations() -> None:
    """They are nobody's new work."""
    async with serving() as server:
        server.instance.terminating = True
        answer = await server.streamed(COMPLETIONS, resumed(None, list(EXPECTED[:5])))
        assert tuple(answer.token_ids) == EXPECTED


async def test_a_resume_takes_the_place_of_an_orphan() -> None:
    """The frontend says the request goes on here: an older run by its id is ended first."""
    async with serving() as server:
        sampling = Sampling(900, ignore_eos=True)
        orphan = server.instance.new_request(RequestId("r"), 0, PROMPT, (), sampling)
        server.instance.submit(orphan)
        answer = await server.streamed(COMPLETIONS, resumed(None, []))
        assert tuple(answer.token_ids) == EXPECTED
        assert orphan.finish is not None
        assert orphan.finish.finish_reason == "abort"


class Mover:
    """Moves requests between two servers' engines by hand, as their llumlets would."""

    def __init__(self, source: Server, destination: Server) -> None:
        self.source = EmulatorHooks(source.instance)
        self.destination = EmulatorHooks(destination.instance)
        self._state: asyncio.Future[RequestState] = asyncio.get_running_loop().create_future()
        self.source.set_listener(self)

    def stepped(self) -> None:
        pass

    def gone(self, request_id: RequestId, why: Gone) -> None:
        pass

    def detached(self, request_id: RequestId, state: RequestState) -> None:
        self._state.set_result(state)

    async def move(self, request_id: str, migration_id: str) -> RequestState:
        """Detach, copy, attach, release."""
        self.source.detach(RequestId(request_id))
        state = await asyncio.wait_for(self._state, 10)
        blocks = -(-state.kv_tokens // 16)
        to = MigrationId(migration_id)
        assert self.destination.reserve(to, blocks)
        data = b"".join(self.source.gather(RequestId(request_id), 0, blocks))
        for view in self.destination.reserved_views(to, 0, blocks):
            view[:], data = data[: len(view)], data[len(view) :]
        assert self.destination.attach(to, state)
        self.source.release(RequestId(request_id), f"migrate:{migration_id}")
        return state


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_moved_request_is_redirected_and_claimed(path: str, stream: bool) -> None:
    """The source's stream says where it went; the claim replays it all and goes on."""
    length = 300
    async with serving(speed=1.0) as source, serving() as destination:
        body = body_for(path, max_tokens=length)
        expected = (await destination.whole(path, body)).token_ids
        ask = source.streamed if stream else source.whole
        asking = asyncio.create_task(ask(path, body, **ID))
        mover = Mover(source, destination)
        await arrival(source)
        await progress(source, "r", 3)
        state = await mover.move("r", "m1")
        first = await asking
        assert (first.finish_reason, first.stop_reason) == ("abort", "migrate:m1")
        assert first.token_ids == list(state.output_token_ids)
        if stream:
            assert first.chunks[-1]["choices"][0]["token_ids"] == []
        ask = destination.streamed if stream else destination.whole
        second = await ask(path, {**body, **resume_field("r", "m1", None)}, **ID)
        assert second.token_ids == expected
        assert len(expected) == length
        await departure(destination)
        assert destination.instance.engine.blocks.allocated_blocks == 0
        status, answer = await destination.post(path, {**body, **resume_field("r", "m1", None)})
        assert (status, answer["error"]["code"]) == (409, "unknown_migration")


async def test_a_queued_request_is_bounced_by_a_drain() -> None:
    """Its stream ends without a token, and says it wants to be queued elsewhere."""
    async with serving(speed=ENDLESS, max_num_seqs=1) as server:
        running = asyncio.create_task(server.streamed(COMPLETIONS, body_for(COMPLETIONS)))
        await arrival(server)
        queued = asyncio.create_task(server.streamed(COMPLETIONS, body_for(COMPLETIONS), **ID))
        await arrival(server, 2)
        assert EmulatorHooks(server.instance).requeue(RequestId("r"))
        answer = await queued
        assert (answer.finish_reason, answer.stop_reason) == ("abort", "migrate:requeue")
        assert (answer.text, answer.token_ids) == ("", [])
        running.cancel()


def test_the_secret_of_these_tests_signs() -> None:
    """The field is signed anew for each request."""
    field = resume_field("r", None, [])["kv_transfer_params"]["llumnix"]
    assert field["signature"]
    assert SECRET not in str(field).encode()
