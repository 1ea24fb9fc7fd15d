"""However changes fall together, nobody waits for room that is there."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.registry import PolicySpec
from policies.types import DispatchRequest, RequestId
from tests.llumnix.fleet.test_held import Door
from tests.policies.fleets import law

SIZE = 3
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from([50, 400, 3_000]), st.integers(0, 1)),
        st.tuples(st.just("report"), st.integers(0, SIZE - 1), st.integers(0, 10)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("let others run"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


class Waiting:
    """Clients at the queue of a fleet; those that are placed stay on their instance."""

    def __init__(self) -> None:
        self.door = Door(SIZE, {"growth_steps": 4.0})
        self.queue = HoldQueue(
            self.door.fleet.dispatch, PolicySpec("class-then-arrival"), 100, 30.0, 1.0, 0.0
        )
        self.door.fleet.changed = self.queue.retry
        self.clients: list[asyncio.Task[Instance | Refusal]] = []

    def change(self, what: str, one: int, other: int) -> None:
        if what == "arrive":
            number = len(self.clients)  # two clients never have the same id
            self.clients.append(asyncio.create_task(self.client(number, one, other)))
        elif what == "report":
            self.door.report(one, physical_tokens=1_000 * other, running=(0, other))
        elif what == "leave" and self.clients:
            self.clients[one % len(self.clients)].cancel()

    async def client(self, number: int, tokens: int, class_index: int) -> Instance | Refusal:
        name, model = RequestId(f"r{number}"), ("m", "n", None)[number % 3]
        request = DispatchRequest(name, class_index, tokens, float(number), model)
        try:
            return await self.queue.place(PlacementRequest(request))
        except asyncio.CancelledError:
            self.door.fleet.forget(name)
            self.queue.retry()  # as whoever ends a request does
            raise

    async def settle(self) -> None:
        """Let everything run that was begun or is due now."""
        for _ in range(3):
            await asyncio.sleep(0)
        while self.queue._rounds.due:
            await self.queue._rounds.end()
            await asyncio.sleep(0)

    def place_more(self) -> list[Any]:
        """Offer everybody once more; return who is placed by that."""
        placed: list[Any] = []
        self.queue._queue.offer(self.queue._decide, lambda held, _: placed.append(held))
        return placed


@law
@given(batches=st.lists(CHANGES, max_size=5))
def test_what_falls_together_is_not_lost(batches: list[list[tuple[str, int, int]]]) -> None:
    async def run() -> None:
        waiting = Waiting()
        for batch in batches:
            for what, one, other in batch:
                if what == "let others run":
                    await asyncio.sleep(0)
                waiting.change(what, one, other)
            await waiting.settle()

            assert waiting.place_more() == []
        for client in waiting.clients:
            client.cancel()
        await asyncio.gather(*waiting.clients, return_exceptions=True)
        assert len(waiting.queue) == 0
        assert not waiting.door.fleet._held._model_of

    asyncio.run(run())
