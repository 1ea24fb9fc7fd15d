"""Early claims when something goes wrong around them: a death, a refusal, a client that leaves."""

import asyncio

import pytest

from tests.llumnix.frontend.scene import REQUEST, scene
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import until
from tests.llumnix.frontend.stub import TOKENS

EARLY, FINAL = True, False


@pytest.mark.parametrize("how", ["impatient", "refused", "sent back", "broken", "error"])
async def test_a_claim_that_brings_nothing_is_asked_anew(how: str) -> None:
    """Final, with all that is known (the token swallowed too), before the first is given up."""
    patience_s = 0.05 if how == "impatient" else 20.0
    async with scene(instances=3, claim_patience_s=patience_s) as it:
        it.at("a").give(4)
        await it.client_has(4)
        if how == "error":
            it._vllm("b").status = 500
        it.start()
        claim = await it.arrived("b")
        if how == "refused":
            claim.let_go("llumnix:refused:wrong signature")
        elif how == "sent back":
            claim.let_go("migrate:requeue")
        elif how == "broken":
            claim.die()
        it.at("a").redirect("m")
        await until(lambda: it.stays("b") + it.stays("c") + it.stays("a") == 3)
        final = next(it.at(name) for name in "bca" if it.stays(name) > (name != "c"))
        final.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert final.ids == [1000 + 7 * i for i in range(5)]
        again = [("m", FINAL, 5)] if how in ("impatient", "sent back", "broken") else []
        assert it.resumes("b") == [("m", EARLY, 4), *again]
        forged = it.stage.metric("control_frames_refused_total", reason="resume_refused")
        assert forged == (how == "refused")
        assert len(it.stage.fleet.tally.downtimes_s) == 1


async def test_an_impatient_frontend_keeps_the_claim_until_it_is_answered_anew() -> None:
    """Closing it would cancel the request there, with the KV that is to be salvaged."""
    async with scene(claim_patience_s=0.05) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        destination = it._vllm("b")
        destination.silent.clear()
        final = await it.arrived("b", 2)
        assert not claim.cancelled.is_set()
        destination.silent.set()
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)
        final.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)


async def test_a_natural_end_closes_the_claim() -> None:
    """The source finished first: its answer stands."""
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").finish(TOKENS)

        assert await it.got == await it.unmoved()
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)


async def test_a_client_that_leaves_cancels_at_both_ends() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.got.cancel()
        await asyncio.wait_for(it.at("a").cancelled.wait(), 10.0)
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)
        await until(lambda: not it.stage.fleet.requests.active)


async def test_a_client_that_leaves_after_the_redirect_cancels_the_claim() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        await until(lambda: it.stage.fleet.requests.active[REQUEST].instance_id == "b")
        it.got.cancel()
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)


async def test_a_source_that_dies_during_a_migration_leaves_what_it_staged() -> None:
    """The destination is asked first, with all that is known, and only then the claim closed."""
    async with scene(instances=3) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").give(6)
        await it.client_has(6)
        it.at("a").die()
        final = await it.arrived("b", 2)
        final.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 4), ("m", FINAL, 6)]
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)


async def test_a_source_found_dead_by_the_fleet_keeps_the_claim_for_its_stream() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.stage.links["a"].give_up("no report")
        await until(lambda: not it.stage.instance("a").alive)
        assert not claim.cancelled.is_set()
        it.at("a").die()
        final = await it.arrived("b", 2)
        final.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 4), ("m", FINAL, 4)]


async def test_a_source_that_dies_after_the_redirect_is_missed_by_nobody() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        it.stage.links["a"].give_up("no report")
        claim.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.resumes("b") == [("m", EARLY, 4)]


async def test_a_destination_that_dies_before_the_redirect_costs_the_stream_nothing() -> None:
    async with scene() as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.stage.links["b"].give_up("no report")
        await asyncio.wait_for(claim.cancelled.wait(), 10.0)
        it.at("a").finish(TOKENS)

        assert await it.got == await it.unmoved()


@pytest.mark.parametrize("new_tokens", [0, 2])
async def test_a_destination_that_dies_after_the_redirect_is_replaced(new_tokens: int) -> None:
    """Before or after its first new token: another instance recomputes from all that is known."""
    async with scene(instances=3) as it:
        it.at("a").give(4)
        await it.client_has(4)
        it.start()
        claim = await it.arrived("b")
        it.at("a").redirect("m")
        claim.give(5 + new_tokens if new_tokens else 4)
        if new_tokens:
            await it.client_has(5 + new_tokens)
        claim.die()
        await until(lambda: it.stays("a") + it.stays("b") + it.stays("c") == 3)
        final = next(it.at(name) for name in "abc" if it.at(name) not in (claim, it.at("a", 0)))
        final.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert len(final.ids) == 5 + new_tokens


async def test_a_refused_continuation_is_carried_on_elsewhere() -> None:
    async with scene(instances=3) as it:
        it.at("a").give(3)
        await it.client_has(3)
        it.at("a").die()
        await until(lambda: it.stays("b") + it.stays("c") == 1)
        first, second = ("b", "c") if it.stays("b") else ("c", "b")
        it.at(first).let_go("llumnix:refused:expired")
        (await it.arrived(second)).finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.stage.metric("control_frames_refused_total", reason="resume_refused") == 1
