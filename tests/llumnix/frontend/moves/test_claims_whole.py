"""Moved answers as a whole: not streamed, with log-probabilities, over several hops."""

import json

import pytest

from tests.llumnix.frontend.scene import REQUEST, scene
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.splicing.vllm_chunks import logprobs_of
from tests.llumnix.frontend.stage import until
from tests.llumnix.frontend.stub import TOKENS

KINDS = pytest.mark.parametrize("chat", [False, True])
EARLY, FINAL = True, False


@KINDS
async def test_the_log_probabilities_of_a_swallowed_token_are_put_back(chat: bool) -> None:
    """What is replayed has dummies for all it has not computed; the client sees none of them."""
    async with scene({"logprobs": 1}, chat=chat) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        claim.writer.dummies = 5
        claim.merge(6)
        claim.finish(TOKENS)
        got = await it.got

        assert logprobs_of(got) == logprobs_of(await it.unmoved())
        assert text_of(got) == full_text(TOKENS)


async def test_several_hops_in_a_row_some_without_a_token() -> None:
    """a → b → c, b moved on before it showed anything new: both swallowed tokens are kept."""
    async with scene({"logprobs": 1}, instances=3) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        second = await it.arrived("b")
        it.at("a").redirect("m")
        await until(lambda: it.stage.fleet.requests.active[REQUEST].instance_id == "b")
        it.stage.order("n", "b", "c")
        second.writer.dummies = 5
        second.merge(4)
        second.orders.put_nowait(("bytes", second.writer.tokens(4, 6, "length", "migrate:n")))
        third = await it.arrived("c")
        third.finish(TOKENS)
        got = await it.got

        assert third.ids == [1000 + 7 * i for i in range(6)]
        assert text_of(got) == full_text(TOKENS)
        assert logprobs_of(got) == logprobs_of(await it.unmoved())


@KINDS
async def test_a_whole_answer_is_the_destinations(chat: bool) -> None:
    """Claimed early with no ids known; complete, but for log-probabilities of before the move."""
    async with scene({"logprobs": 1}, chat=chat, stream=False) as it:
        it.start()
        claim = await it.arrived("b")
        stay = it.at("a")
        stay.finish(5, stop="migrate:m")
        claim.writer.dummies = 5
        claim.finish(TOKENS)
        got = json.loads(await it.got)
        unmoved = json.loads(await it.unmoved())

        assert it.resumes("b") == [("m", EARLY, 0)]
        assert got.pop("created") != unmoved.pop("created")
        assert got == unmoved


async def test_an_unmoved_whole_answer_keeps_its_bytes() -> None:
    async with scene({"logprobs": 1}, stream=False) as it:
        it.at("a").finish(TOKENS)

        assert (await it.got) == await it.unmoved()


@pytest.mark.parametrize("how", ["sent back", "broken"])
async def test_a_whole_answers_claim_that_fails_is_asked_anew(how: str) -> None:
    """From the ids of the answer that ended in the redirect, at the destination first."""
    async with scene(stream=False) as it:
        it.start()
        claim = await it.arrived("b")
        it.at("a").finish(5, stop="migrate:m")
        if how == "broken":
            claim.die()
        else:
            claim.let_go("migrate:requeue")
        final = await it.arrived("b", 2)
        final.finish(TOKENS)

        assert json.loads(await it.got)["choices"][0]["text"] == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 0), ("m", FINAL, 5)]


async def test_a_whole_answers_source_that_dies_is_asked_for_afresh() -> None:
    async with scene(stream=False) as it:
        it.at("a").die()
        again = await it.arrived("b")
        again.finish(TOKENS)

        assert json.loads(await it.got)["choices"][0]["text"] == full_text(TOKENS)
        assert it.resumes("b") == []


async def test_a_whole_answer_of_other_tokens_is_an_error() -> None:
    async with scene(stream=False) as it:
        it.start()
        claim = await it.arrived("b")
        it.at("a").finish(5, stop="migrate:m")
        claim.orders.put_nowait(("end", claim.writer.answer(TOKENS).replace(b"1014", b"1015")))

        assert json.loads(await it.got)["error"]["code"] == "mismatch"
        assert it.stage.metric("stream_mismatch_total") == 1
