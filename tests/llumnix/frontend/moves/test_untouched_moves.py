"""Streams at servers without our plugin: carried on by recompute, or ended loudly."""

import asyncio
import json
from typing import Any

import pytest

from tests.llumnix.frontend.scene import REQUEST, Scene, scene
from tests.llumnix.frontend.splicing.chunks import DONE, full_text, text, text_of, token
from tests.llumnix.frontend.splicing.vllm_chunks import PROMPT, choices_of
from tests.llumnix.frontend.stage import until
from tests.llumnix.frontend.stub import TOKENS
from tests.llumnix.frontend.vllm_stub import Stay, VllmInstance, prompt_of

KINDS = pytest.mark.parametrize("chat", [False, True])


async def begun(it: Scene, tokens: int) -> Stay:
    """Let the client have some tokens; give the stay they are from."""
    stay = it.at("a")
    stay.give(tokens)
    await it.client_has(tokens)
    return stay


@KINDS
async def test_an_unmoved_stream_keeps_its_bytes(chat: bool) -> None:
    async with scene({"stream_options": {"include_usage": True}}, chat=chat, plugged=False) as it:
        assert it.at("a").heard.body["return_token_ids"] is True
        assert "kv_transfer_params" not in it.at("a").heard.body
        it.at("a").finish(TOKENS)

        assert await it.got == await it.unmoved()


@KINDS
async def test_a_stream_survives_its_server(chat: bool) -> None:
    """Computed on elsewhere from prompt and output so far, and nothing of the seam shows."""
    asked = {"max_tokens": TOKENS, "min_tokens": 6, "stream_options": {"include_usage": True}}
    async with scene(asked, chat=chat, plugged=False) as it:
        first = await begun(it, 5)
        first.die()
        second = await it.next_stay(first)
        second.finish(TOKENS)
        got = await it.got
        ids = [token(i) for i in range(5)]

        assert prompt_of(second.heard.body) == PROMPT + ids
        assert second.heard.body["max_tokens"] == TOKENS - 5
        assert second.heard.body["min_tokens"] == 1
        assert ("messages" in second.heard.body) == chat
        assert text_of(got) == full_text(TOKENS)
        assert b'"created":99' not in got
        assert got.count(b'"role"') == (1 if chat else 0)
        usage = json.loads(got.split(b"\n\n")[-3][6:])["usage"]
        assert usage == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
        assert b'token_ids":[' not in got
        assert it.stage.metric("resumes_total", reason="instance_died", result="ok") == 1


async def test_a_client_that_asks_for_ids_gets_each_once() -> None:
    async with scene({"return_token_ids": True}, plugged=False) as it:
        first = await begun(it, 4)
        first.die()
        second = await it.next_stay(first)
        second.finish(TOKENS)
        told = choices_of(await it.got)

        assert [one for c in told for one in c["token_ids"]] == [token(i) for i in range(TOKENS)]
        assert [c["prompt_token_ids"] for c in told if c["prompt_token_ids"]] == [PROMPT]


async def test_several_servers_may_die_in_a_row() -> None:
    async with scene({"max_tokens": TOKENS}, plugged=False, instances=3) as it:
        first = await begun(it, 4)
        first.die()
        second = await it.next_stay(first)
        second.give(7)
        await it.client_has(7)
        second.die()
        third = await it.next_stay(first, second)
        third.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert len(prompt_of(third.heard.body)) == len(PROMPT) + 7
        assert third.heard.body["max_tokens"] == TOKENS - 7


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_is_found_across_the_cut(include: bool) -> None:
    """Half of it came from the first server, which holds the end back; half from the second."""
    stop = text(4)[-1] + text(5)[:3]
    asked = {
        "stop": [stop],
        "include_stop_str_in_output": include,
        "stream_options": {"include_usage": True},
    }
    async with scene(asked, plugged=False) as it:
        first = it.at("a")
        whole = full_text(5)
        held = 0 if include else len(stop) - 1
        first.orders.put_nowait(("bytes", first.writer.tokens(0, 4)))
        last = first.writer.tokens(4, 5)
        sent = len(whole) - len(full_text(4)) - held
        shown = json.dumps(text(4), ensure_ascii=False)
        cut = json.dumps(text(4)[:sent], ensure_ascii=False)
        first.orders.put_nowait(("bytes", last.replace(shown.encode(), cut.encode())))
        await it.client_has(5)
        first.die()
        second = await it.next_stay(first)
        assert not second.heard.body["stop"]
        second.give(TOKENS)
        got = await it.got

        end = whole[:-1] + (stop if include else "")
        assert text_of(got) == end
        assert got.endswith(DONE)
        last_choice = choices_of(got)[-1]
        assert (last_choice["finish_reason"], last_choice["stop_reason"]) == ("stop", stop)
        usage = json.loads(got.split(b"\n\n")[-3][6:])["usage"]
        assert usage == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        await asyncio.wait_for(second.cancelled.wait(), 10.0)


@pytest.mark.parametrize(
    "asked",
    [
        {"seed": 1, "temperature": 1.0},
        {"presence_penalty": 0.5},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": 1},
        {"unheard_of": 1},
    ],
)
async def test_what_a_server_would_forget_is_ended_loudly(asked: dict[str, Any]) -> None:
    """Ids are not even asked for: what is not asked for twice need not be told once."""
    async with scene(asked, plugged=False) as it:
        assert "return_token_ids" not in it.at("a").heard.body
        it.at("a").give(3)
        await until(lambda: it.stage.fleet.tally.streams_open)
        it.at("a").die()
        got = await it.got

        assert json.loads(got.split(b"\n\n")[-2][6:])["error"]["code"] == "broken"
        assert it.stays("b") == 0


async def test_a_server_that_gives_no_ids_is_not_carried_on_from() -> None:
    async with scene(plugged=False) as it:
        stay = it.at("a")
        stay.writer.ids = False
        stay.give(3)
        await until(lambda: it.stage.fleet.tally.streams_open)
        stay.die()

        assert b'"error"' in await it.got
        assert it.stays("b") == 0


async def test_a_server_that_decodes_nothing_serves_where_that_does_not_matter() -> None:
    """Without stop strings the text goes on where it was left."""
    async with scene(plugged=False) as it:
        for stub in it.stage.stubs:
            assert isinstance(stub, VllmInstance)
            stub.decodes = False
        first = await begun(it, 4)
        first.die()
        second = await it.next_stay(first)
        second.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)


async def test_text_that_is_not_its_tokens_is_an_error() -> None:
    """What the client has must be what its token ids say: else nothing is put behind it."""
    async with scene(plugged=False) as it:
        stay = it.at("a")
        stay.orders.put_nowait(("bytes", stay.writer.tokens(0, 3).replace(b"the", b"teh")))
        await it.client_has(3)
        stay.die()
        (await it.next_stay(stay)).give(5)
        got = await it.got

        assert json.loads(got.split(b"\n\n")[-2][6:])["error"]["code"] == "mismatch"
        assert it.stage.metric("stream_mismatch_total") == 1


@KINDS
async def test_a_stream_is_handed_over_by_hand(chat: bool) -> None:
    """The destination's cache is warmed with all so far, then the stream is cut and goes on."""
    async with scene(chat=chat, plugged=False) as it:
        first = await begun(it, 4)
        order = {"request_id": REQUEST, "destination": it.url_of("b")}
        async with it.stage.session.post("/llumnix/migrate", json=order) as response:
            assert response.status == 200
            migration = await response.json()
        second = await it.arrived("b")
        await asyncio.wait_for(first.cancelled.wait(), 10.0)
        second.finish(TOKENS)
        got = await it.got
        known = [token(i) for i in range(4)]

        assert it._vllm("b").warmed[0]["prompt"] == PROMPT + known
        assert text_of(got) == full_text(TOKENS)
        kinds = {
            event.kind
            for event in it.stage.fleet.events.after(0)
            if event.more.get("migration_id") == migration["migration_id"]
        }
        assert kinds == {"migration_started", "migration_committed"}
        assert len(it.stage.fleet.tally.downtimes_s) == 1
        assert it.stage.metric("resumes_total", reason="migrated", result="ok") == 1


async def test_a_drained_server_is_emptied_of_what_can_be_carried_on() -> None:
    async with scene(plugged=False) as it:
        await begun(it, 4)
        order = {"instance_id": it.url_of("a"), "on": True}
        async with it.stage.session.post("/llumnix/drain", json=order) as response:
            assert response.status == 200
        second = await it.arrived("b")
        second.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert len(it._vllm("b").warmed) == 1


async def test_a_stream_that_cannot_be_carried_on_stays_where_it_is() -> None:
    async with scene({"logprobs": 1}, plugged=False) as it:
        stay = it.at("a")
        stay.give(4)
        await until(lambda: it.stage.fleet.tally.streams_open)
        order = {"request_id": REQUEST, "destination": it.url_of("b")}
        async with it.stage.session.post("/llumnix/migrate", json=order) as response:
            assert response.status == 409
        stay.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.stays("b") == 0


async def test_a_stream_that_ends_while_its_destination_warms_up_ends_there() -> None:
    async with scene(plugged=False) as it:
        stay = await begun(it, 4)
        it._vllm("b").warm.clear()
        order = {"request_id": REQUEST, "destination": it.url_of("b")}
        async with it.stage.session.post("/llumnix/migrate", json=order) as response:
            assert response.status == 200
        await until(lambda: it._vllm("b").warmed)
        stay.finish(TOKENS)
        assert await it.got == await it.unmoved()
        it._vllm("b").warm.set()
        await until(lambda: not list(it.stage.fleet.mover.book))

        assert it.stage.fleet.tally.migrations["aborted"] == 1
