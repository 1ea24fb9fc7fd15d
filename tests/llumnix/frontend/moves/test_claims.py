"""Early claims, in every order of the events around them: the client's stream is as if unmoved."""

import asyncio

import pytest

from tests.llumnix.frontend.scene import REQUEST, scene
from tests.llumnix.frontend.splicing.chunks import DONE, full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS
from tests.llumnix.frontend.vllm_stub import VllmInstance

KINDS = pytest.mark.parametrize("chat", [False, True])
EARLY, FINAL = True, False


async def test_a_server_with_the_plugin_is_found_by_its_metrics() -> None:
    async with Stage(1, engine=VllmInstance) as stage:
        identity = stage.instance("a").identity
        assert identity is not None
        assert (identity.kind, identity.engine) == ("llumnix", "vllm")
        assert (identity.control_port, identity.capacity_tokens) == (41234, 8192)
        assert identity.control_host == "127.0.0.1"


@KINDS
async def test_an_unmoved_stream_keeps_its_bytes_and_is_tagged(chat: bool) -> None:
    """The ids only we asked for are null again, and what shows nowhere is not sent at all."""
    async with scene({"temperature": 0}, chat=chat) as it:
        stay = it.at("a")
        stay.give(5)
        stay.orders.put_nowait(("bytes", stay.writer.swallowed(5)))
        stay.finish(TOKENS)

        assert stay.heard.body["return_token_ids"] is True
        tag = {"request_id": REQUEST, "class_index": 1}
        assert stay.heard.body["kv_transfer_params"] == {"llumnix_request": tag}
        assert await it.got == await it.unmoved()


@pytest.mark.parametrize("n", [{"n": 2}, {"prompt": ["a", "b"]}, {"echo": True}])
async def test_what_cannot_be_moved_is_not_tagged(n: dict[str, object]) -> None:
    async with scene(n) as it:
        it.at("a").finish(3)
        await it.got

        assert "kv_transfer_params" not in it.at("a").heard.body
        it.start()
        assert it.stays("b") == 0


@KINDS
async def test_a_stream_goes_on_with_what_was_claimed_early(chat: bool) -> None:
    """Claimed at the start, redirected with a token too many, gone on with: the same text once."""
    async with scene({"stream_options": {"include_usage": True}}, chat=chat) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").give(6)
        await it.client_has(6)
        it.at("a").redirect("m")
        claim.merge(7)  # the rest that is known: what the frontend swallowed, too
        claim.finish(TOKENS)
        got = await it.got

        assert text_of(got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 4)]
        assert got.count(b'"role"') == (1 if chat else 0)
        assert got.count(b'"usage":{') == 1
        assert b"migrate" not in got
        assert b'"created":99' not in got
        assert it.stage.metric("resumes_total", reason="migrated", result="ok") == 1
        assert len(it.stage.fleet.tally.downtimes_s) == 1


async def test_a_client_sees_the_same_bytes_when_chunks_are_the_same() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        claim.finish(TOKENS)

        assert await it.got == await it.unmoved()


async def test_an_abort_is_a_redirect_as_well() -> None:
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m", finish="abort")
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)


async def test_a_redirect_before_the_claim_has_a_head() -> None:
    """The destination is slow to take the claim: it is waited for, within patience."""
    async with scene() as it:
        destination = it.stage.stubs[1]
        assert isinstance(destination, VllmInstance)
        destination.silent.clear()
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        await until(lambda: it.stage.fleet.requests.active[REQUEST].state == "moving")
        claim.finish(TOKENS)
        destination.silent.set()

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 2)]


async def test_a_redirect_before_the_news_of_its_migration() -> None:
    """News and streams come by different connections: nothing is claimed twice."""
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.stage.order("m", "a", "b")
        it.at("a").redirect("m")
        claim = await it.arrived("b")
        it.stage.started("m", REQUEST, "a", "b")
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", FINAL, 3)]


@pytest.mark.parametrize("kind", ["aborted", "refused"])
async def test_an_abort_closes_the_claim_at_once(kind: str) -> None:
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        it.end(kind)
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)
        it.at("a").finish(TOKENS)

        assert await it.got == await it.unmoved()


async def test_an_abort_after_the_redirect_changes_nothing() -> None:
    """The source could not hear the answer to its commit: only the claim can tell."""
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        await until(lambda: it.stage.fleet.requests.active[REQUEST].instance_id == "b")
        it.end("aborted", unresolved=True)
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 2)]


async def test_an_unresolved_abort_before_the_redirect_keeps_the_claim() -> None:
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        it.end("aborted", unresolved=True)
        it.at("a").redirect("m")
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 2)]


async def test_an_unread_claim_is_bounded_by_buffers() -> None:
    """A destination may write a lot before the redirect: it is held up, not swallowed whole."""
    async with scene() as it:
        it.at("a").give(2)
        await it.client_has(2)
        it.start()
        claim = await it.arrived("b")
        comment = b": " + b"x" * 65_000 + b"\n\n"
        for _ in range(400):
            claim.orders.put_nowait(("bytes", comment))
        it.at("a").give(6)
        await it.client_has(6)
        waiting = it.stage.fleet.requests.active[REQUEST].follower
        assert waiting is not None
        assert claim.orders.qsize() > 100
        it.at("a").redirect("m")
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)


async def test_a_real_end_is_not_taken_for_a_redirect() -> None:
    """A client may stop at the string `migrate:m`; then the finish reason is `stop`."""
    async with scene() as it:
        it.at("a").finish(5, "stop", "migrate:m")
        got = await it.got

        assert b'"stop_reason":"migrate:m"' in got
        assert got.endswith(DONE)
