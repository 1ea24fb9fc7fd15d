"""Streams through a whole frontend: faithful when nothing happens, seamless when something does."""

import json

import pytest

from tests.llumnix.frontend.splicing.chunks import DONE, Writer, full_text, text_of
from tests.llumnix.frontend.stage import Stage
from tests.llumnix.frontend.stub import TOKENS, Script


def plain(chat: bool, request_id: str) -> bytes:
    return b"".join(Writer(chat=chat, ids=False, request_id=request_id).stream(TOKENS))


@pytest.mark.parametrize("chat", [False, True])
async def test_a_stream_passes_unchanged(chat: bool) -> None:
    """The client gets the instance's bytes, less the token ids only we asked for."""
    async with Stage() as stage:
        async with stage.post(chat=chat, X_Request_Id="mine") as response:
            assert await response.read() == plain(chat, "mine")
        heard = stage.stubs[0].heard[0]

        assert heard.body["return_token_ids"] is True
        assert stage.metric("requests_total", class_name="normal", outcome="finished") == 1
        assert stage.metric("output_tokens_total", class_name="normal") == TOKENS


async def test_headers_pass_both_ways() -> None:
    async with Stage() as stage:
        stage.stubs[0].scripts.append(Script(headers={"X-Engine": "one"}))
        async with stage.post(Authorization="Bearer k", X_Tenant="t", X_Llumnix_Class="high") as r:
            await r.read()
            assert r.headers["X-Engine"] == "one"
            assert r.headers["Content-Type"] == "text/event-stream"
            request_id = r.headers["X-Request-Id"]
        headers = stage.stubs[0].heard[0].headers

        assert headers["Authorization"] == "Bearer k"
        assert headers["X-Tenant"] == "t"
        assert headers["X-Llumnix-Class"] == "high"
        assert headers["X-Request-Id"] == request_id


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("merge", [1, 5])
async def test_a_migrated_stream_looks_like_one_that_stayed(chat: bool, merge: int) -> None:
    """Redirected after any token: same bytes as unmoved, in one id and one created."""
    async with Stage() as stage:
        a, b = stage.stubs
        for moved_after in range(0, TOKENS, 2 * merge):
            stage.order("m", "a", "b")
            a.scripts.append(Script(moved_after, then="redirect", merge=merge))
            b.scripts.append(Script(created=77, merge=merge))
            stage.brain._turn = 0
            async with stage.post(chat=chat, X_Request_Id="r") as response:
                got = await response.read()
            want = b"".join(Writer(chat=chat, ids=False).stream(TOKENS, merge))
            # With nothing sent there is nothing to splice: the stream is simply b's.
            untold = moved_after == 0 and not chat
            assert got == (want.replace(b'"created":1', b'"created":77') if untold else want)
            resume = b.heard[-1].resume
            assert resume is not None
            assert resume["migration_id"] == "m"
            assert resume["output_token_ids"] == [1000 + 7 * i for i in range(moved_after)]
            assert resume["request_id"] == "r"
        assert stage.metric("resumes_total", reason="migrated", result="ok") == len(b.heard)


async def test_a_migration_pauses_are_measured() -> None:
    """Each migration gives one gap and one downtime, and the downtime is never the longer."""
    async with Stage() as stage:
        stage.order("m", "a", "b")
        stage.stubs[0].scripts.append(Script(5, then="redirect"))
        await stage.stream()
        tally = stage.fleet.tally

        assert len(tally.gaps_s) == len(tally.downtimes_s) == 1
        assert 0 <= tally.downtimes_s[0] <= tally.gaps_s[0]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 4, TOKENS - 1, TOKENS])
@pytest.mark.parametrize("how", ["die", "leave"])
async def test_a_stream_survives_its_instance(chat: bool, tokens: int, how: str) -> None:
    """Cut off after any token, by a reset or a quiet end: carried on from the ids we have."""
    async with Stage() as stage:
        a, b = stage.stubs
        a.scripts.append(Script(tokens, then=how))
        b.scripts.append(Script(created=9))
        got = await stage.stream(chat=chat)

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'finish_reason":"length') == 1
        assert got.endswith(DONE)
        if tokens:
            resume = b.heard[0].resume
            assert resume is not None
            assert resume["migration_id"] is None
            # A reset may overtake the last bytes: what we never had we cannot know of.
            ids = resume["output_token_ids"]
            assert ids == [1000 + 7 * i for i in range(len(ids))]
            assert len(ids) == tokens or how == "die"


@pytest.mark.parametrize("chat", [False, True])
async def test_a_queued_request_sent_back_is_placed_anew(chat: bool) -> None:
    """A drain bounces what has not begun: it starts afresh elsewhere, nobody notices."""
    async with Stage() as stage:
        a, b = stage.stubs
        a.scripts.append(Script(0, then="redirect", migration_id="requeue"))
        got = await stage.stream(chat=chat)

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'"role"') == (1 if chat else 0)
        assert len(b.heard) == 1
        assert stage.metric("resumes_total", reason="requeued", result="ok") == 1


async def test_several_moves_in_a_row() -> None:
    """A → B → C → A, one of them by death: one seamless stream."""
    async with Stage(3) as stage:
        a, b, c = stage.stubs
        stage.order("m1", "a", "b")
        stage.order("m2", "b", "c")
        a.scripts.append(Script(3, then="redirect", migration_id="m1"))
        b.scripts.append(Script(6, then="redirect", migration_id="m2", created=5))
        c.scripts.append(Script(8, then="leave", created=6))
        async with stage.post(X_Request_Id="r") as response:
            got = await response.read()

        assert got == plain(chat=False, request_id="r")
        assert stage.fleet.tally.resumed == 3


async def test_a_death_during_a_migration_asks_its_destination_first() -> None:
    """What is staged at the destination is salvaged: the claim names the migration."""
    async with Stage(3) as stage:
        a, _, c = stage.stubs

        async def announce() -> None:
            active = next(iter(stage.fleet.requests.active))
            stage.order("m", "a", "c")
            stage.started("m", active, "a", "c")

        a.scripts.append(Script(4, then="leave", pause=announce))
        got = await stage.stream()

        assert text_of(got) == full_text(TOKENS)
        resume = c.heard[0].resume
        assert resume is not None
        assert resume["migration_id"] == "m"
        assert len(resume["output_token_ids"]) == 4


async def test_an_unreachable_destination_is_replaced() -> None:
    """The claim fails: any other instance recomputes from the ids."""
    async with Stage(3) as stage:
        a, b, c = stage.stubs
        stage.order("m", "a", "b")
        a.scripts.append(Script(4, then="redirect"))
        b.scripts.append(Script(status=409))
        got = await stage.stream()

        assert text_of(got) == full_text(TOKENS)
        assert len(b.heard) == 1
        assert [heard.resume is not None for heard in (*a.heard[1:], *c.heard)] == [True]


async def test_a_migration_we_never_heard_of_is_followed_by_recompute() -> None:
    async with Stage() as stage:
        stage.stubs[0].scripts.append(Script(4, then="redirect", migration_id="unknown"))

        assert text_of(await stage.stream()) == full_text(TOKENS)


async def test_a_replay_that_differs_ends_the_stream_loudly() -> None:
    """Another answer is never passed off as this one: an error event, no [DONE], and a count."""
    async with Stage() as stage:
        stage.order("m", "a", "b")
        stage.stubs[0].scripts.append(Script(TOKENS - 1, then="redirect"))
        stage.stubs[1].scripts.append(Script(TOKENS, garble=True, merge=TOKENS))
        got = await stage.stream()
        last = got.split(b"\n\n")[-2]

        assert json.loads(last[6:])["error"]["code"] == "mismatch"
        assert DONE not in got
        assert stage.metric("stream_mismatch_total") == 1
        assert stage.metric("requests_total", class_name="normal", outcome="failed") == 1


async def test_a_lost_done_costs_nobody_a_token() -> None:
    """The client has all but [DONE]: it is added, no instance is bothered again."""
    async with Stage() as stage:
        a, b = stage.stubs
        a.scripts.append(Script(TOKENS, then="stop short of [DONE]"))
        async with stage.post(X_Request_Id="r") as response:
            assert await response.read() == plain(chat=False, request_id="r")

        assert not b.heard


async def test_a_lost_usage_chunk_is_fetched() -> None:
    """All tokens were sent, usage was not: another instance replays, and only usage is new."""
    async with Stage() as stage:
        stage.stubs[0].scripts.append(Script(TOKENS, then="stop short of [DONE]"))
        got = await stage.stream({"stream_options": {"include_usage": True}})

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'"usage":{') == got.count(b'"finish_reason":"length"') == 1
        assert len(stage.stubs[1].heard) == 1


async def test_usage_comes_once_from_the_last_instance() -> None:
    async with Stage() as stage:
        stage.order("m", "a", "b")
        stage.stubs[0].scripts.append(Script(4, then="redirect"))
        got = await stage.stream({"stream_options": {"include_usage": True}})

        assert got.count(b'"usage":{') == 1
        assert text_of(got) == full_text(TOKENS)


async def test_a_client_that_asks_for_ids_gets_each_once() -> None:
    async with Stage() as stage:
        stage.order("m", "a", "b")
        stage.stubs[0].scripts.append(Script(4, then="redirect"))
        got = await stage.stream({"return_token_ids": True})
        ids = [
            one
            for line in got.split(b"\n\n")
            if line.startswith(b"data: {")
            for one in json.loads(line[6:])["choices"][0]["token_ids"]
        ]

        assert ids == [1000 + 7 * i for i in range(TOKENS)]


async def test_when_all_attempts_fail_the_client_is_told() -> None:
    """Bounded: after max_attempts failures in a row an error event ends the stream."""
    async with Stage(2, max_attempts=3) as stage:
        for stub in stage.stubs:
            stub.scripts.extend(Script(3, then="leave") for _ in range(5))
        got = await stage.stream()

        assert b'"error"' in got
        assert DONE not in got
        assert sum(len(stub.heard) for stub in stage.stubs) <= 4
        assert stage.metric("resumes_total", reason="instance_died", result="failed") == 1


async def test_several_choices_are_not_moved_but_ended_loudly() -> None:
    """n>1 cannot be carried on exactly, so it is not tried once the client has some of it."""
    async with Stage() as stage:
        stage.stubs[0].scripts.append(Script(3, then="leave"))
        got = await stage.stream({"n": 2})

        assert b'"error"' in got
        assert not stage.stubs[1].heard


async def test_untouched_servers_fail_over_only_before_the_first_byte() -> None:
    async with Stage(2, plugged=False) as stage:
        a, b = stage.stubs
        a.scripts.append(Script(0, then="leave"))
        got = await stage.stream()
        assert text_of(got) == full_text(TOKENS)
        assert "return_token_ids" not in b.heard[0].body

        for stub in stage.stubs:
            stub.scripts.extend([Script(3, then="die")])
        got = await stage.stream()
        assert b'"error"' in got
