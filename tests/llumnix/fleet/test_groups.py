"""A fleet of two models: what is ordered stays within a model, by itself or by hand."""

import asyncio

import pytest

from llumnix.fleet.fleet import PlacementRequest
from llumnix.fleet.migrations.mover import Impossible
from llumnix.instances.instance import Instance
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import DispatchRequest, Hold, InstanceId, RequestId
from tests.llumnix.frontend.scene import scene
from tests.llumnix.frontend.splicing.chunks import full_text, text_of
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, StubInstance

MODELS = {"a": "m", "b": "other", "c": "m"}
REBALANCED = SchedulerConfig(dispatch=PolicySpec("freeness"))


async def test_a_full_instance_is_relieved_by_its_like_though_another_model_is_freer() -> None:
    async with Stage(3, scheduler=REBALANCED, models=MODELS) as stage:
        stage.report("b")
        stage.report("c", physical_tokens=400, running=(0, 1))
        stage.report("a", physical_tokens=990, running=(0, 10))
        await until(lambda: stage.stubs[0].orders)

        assert {order.destination.id for order in stage.stubs[0].orders} == {"c"}
        assert [each.destination for each in stage.fleet.mover.book] == ["c"]


async def test_no_order_is_given_to_another_model() -> None:
    """Nor tried: what cannot be moved anywhere is left alone, round after round."""
    async with Stage(2, scheduler=REBALANCED, models=MODELS) as stage:
        stage.report("b")
        stage.report("a", physical_tokens=990, running=(0, 10))
        for _ in range(3):
            orders = stage.brain.rebalance(
                stage.fleet.instances.snapshot(stage.fleet.instances.alive()), stage.fleet.now_s()
            )
            assert orders == []
            assert stage.brain.vetoed == ()

        assert not list(stage.fleet.mover.book)


class InItsOwnWay(StubInstance):
    """A server whose KV lies like nobody else's."""

    def __init__(self, name: str, *, plugged: bool = True) -> None:
        super().__init__(name, plugged=plugged)
        self.layout = f"layout of {name}"


async def test_what_lies_otherwise_is_not_paired() -> None:
    """The layout is what each server tells of itself when it is found."""
    async with Stage(2, engine=InItsOwnWay) as stage:
        a, b = stage.instance("a"), stage.instance("b")

        assert (a.group.layout, b.group.layout) == ("layout of a", "layout of b")
        assert a.group.models == b.group.models == {"m"}
        moved = await stage.fleet.mover.move_by_hand(None, "a", "b")
        assert isinstance(moved, Impossible)


async def test_a_move_by_hand_stays_within_its_model() -> None:
    async with Stage(3, models=MODELS) as stage:
        stage.report("c", physical_tokens=900, running=(0, 1))
        moved = await stage.fleet.mover.move_by_hand(None, "a", None)
        across = await stage.fleet.mover.move_by_hand(None, "a", "b")
        nowhere = await stage.fleet.mover.move_by_hand(None, "b", None)

        assert not isinstance(moved, Impossible)
        assert moved.destination == "c"
        assert across == Impossible("b and a are not of one group")
        assert nowhere == Impossible("no other instance is up")
        assert len(stage.stubs[0].orders) == 1
        assert not stage.stubs[1].orders


async def test_a_drained_server_without_our_plugin_hands_streams_to_its_like() -> None:
    """By recompute; the freer server of another model is passed over."""
    async with scene({"model": "m"}, plugged=False, instances=3, models=MODELS) as it:
        it.at("a").give(4)
        await it.client_has(4)
        await it.stage.fleet.mover.drain(it.stage.instance(it.url_of("a")), on=True)
        second = await it.arrived("c")
        second.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.stays("b") == 0


@pytest.mark.parametrize(("like", "other"), [("c", "b"), ("b", "c")])
async def test_a_stream_that_names_no_model_stays_with_the_model_that_began_it(
    like: str, other: str
) -> None:
    """Two models would make a mixture of one answer, when the server that began it dies."""
    models = {"a": "m", like: "m", other: "other"}
    async with scene({"model": None}, plugged=False, instances=3, models=models) as it:
        first = it.at("a")
        first.give(4)
        await it.client_has(4)
        first.die()
        second = await it.next_stay(first)
        second.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert (it.stays(like), it.stays(other)) == (1, 0)


async def test_a_drained_server_keeps_streams_nobody_else_can_serve() -> None:
    async with scene({"model": "m"}, plugged=False, models=MODELS) as it:
        stay = it.at("a")
        stay.give(4)
        await it.client_has(4)
        fleet = it.stage.fleet
        for _ in range(3):
            await fleet.mover.drain(it.stage.instance(it.url_of("a")), on=True)
            await asyncio.sleep(0)
        stay.finish(TOKENS)

        assert text_of(await it.got) == full_text(TOKENS)
        assert it.stays("b") == 0
        assert not [event for event in fleet.events.after(0) if "migration" in event.kind]


async def test_those_that_failed_a_request_are_asked_before_those_of_another_model() -> None:
    """The last resort is among those that have the model."""
    async with Stage(3, models=MODELS, scheduler=REBALANCED) as stage:
        request = DispatchRequest(RequestId("r"), 1, 10, 0.0, model="m")
        failed = frozenset(map(InstanceId, "ac"))
        placed = stage.fleet.dispatch(PlacementRequest(request, avoided=failed))

        assert isinstance(placed, Instance)
        assert placed.id in failed
        barred = stage.fleet.dispatch(PlacementRequest(request, barred=failed))
        assert isinstance(barred, Hold)
        assert barred.explanation.vetoed == {
            **dict.fromkeys("ac", "it refused this request"),
            "b": "it does not serve m",
        }
