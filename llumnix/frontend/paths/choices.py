"""Choose an instance for a request that is passed on."""

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from llumnix.fleet.fleet import PlacementRequest
from llumnix.fleet.requests import ActiveRequest, ActiveState
from llumnix.frontend.context import ServingContext
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.types import DispatchRequest, InstanceId, RequestId


class ByLoad:
    """Chooses as the scheduler does, for work of the engine; the request may have to be queued."""

    def __init__(
        self,
        context: ServingContext,
        active: ActiveRequest,
        class_index: int,
        model: str | None,
        tokens: int,
    ) -> None:
        self._context = context
        self._active = active
        self._ask = DispatchRequest(
            active.request_id,
            class_index,
            tokens,
            active.since_s,
            model=model or context.fleet.only_model(),
        )

    async def __call__(self, tried: frozenset[InstanceId]) -> Instance | Refusal | None:
        """See Choose."""
        context, active = self._context, self._active
        if tried:
            context.fleet.forget(active.request_id)
            left = [each for each in context.fleet.instances.up() if each.id not in tried]
            if not any(each.group.serves(self._ask.model) for each in left):
                return None
        active.state, active.instance_id = ActiveState.QUEUED, None
        placed = await context.queue.place(PlacementRequest(self._ask, avoided=tried, barred=tried))
        if isinstance(placed, Instance):
            active.state = ActiveState.RUNNING
            active.goes_to(placed.id)
        return placed


class ByTurn:
    """Chooses the instance with the fewest of these requests, in turn among equals."""

    def __init__(self) -> None:
        self._open: Counter[InstanceId] = Counter()
        self._last: Counter[InstanceId] = Counter()
        self._turns = 0

    def choose(self, instances: Sequence[Instance]) -> Instance | None:
        """Return one of these instances; None if there are none."""
        if not instances:
            return None
        chosen = min(instances, key=lambda each: (self._open[each.id], self._last[each.id]))
        self._turns += 1
        self._last[chosen.id] = self._turns
        return chosen

    @contextmanager
    def at(self, instance: Instance) -> Iterator[None]:
        """Count a request at an instance while it is there."""
        self._open[instance.id] += 1
        try:
            yield
        finally:
            self._open[instance.id] -= 1
            if not self._open[instance.id]:
                del self._open[instance.id]


class InTurn:
    """Chooses for one request that needs a server, but not its engine: it waits for no room.

    Use it as a context manager: the request counts as being at the instance chosen last, which
    `active` is told, if the request is in the fleet's table.
    """

    def __init__(
        self,
        context: ServingContext,
        turns: ByTurn,
        model: str | None,
        active: ActiveRequest | None = None,
    ) -> None:
        self._context = context
        self._turns = turns
        self._model = model or None
        self._active = active
        self._stay = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stay.close()

    async def __call__(self, tried: frozenset[InstanceId]) -> Instance | Refusal | None:
        """See Choose."""
        self._stay.close()
        known = self._context.fleet.instances
        able = [
            [each for each in some if each.group.serves(self._model) and each.id not in tried]
            for some in (known.up(), known.alive())
        ]
        chosen: Instance | Refusal | None = self._turns.choose(able[0] or able[1])
        if chosen is None and not tried and self._model is not None:
            chosen = await self._wait()
        if isinstance(chosen, Instance):
            self._stay.enter_context(self._turns.at(chosen))
            if self._active is not None:
                self._active.state = ActiveState.RUNNING
                self._active.goes_to(chosen.id)
        return chosen

    async def _wait(self) -> Instance | Refusal:
        """Wait until an instance of the model is up, as requests for its engine do."""
        context = self._context
        names = context.classes
        request = DispatchRequest(
            RequestId(secrets.token_hex(12)),
            names.names.index(names.default),
            1,
            context.fleet.now_s(),
            model=self._model,
        )
        try:
            return await context.queue.place(PlacementRequest(request))
        finally:
            context.fleet.forget(request.request_id)


class AtHome:
    """Chooses for a request about a stored response: where it is, or else one after another."""

    def __init__(self, context: ServingContext, home: Instance | None) -> None:
        self._context = context
        self._home = home

    async def __call__(self, tried: frozenset[InstanceId]) -> Instance | Refusal | None:
        """See Choose."""
        if self._home is not None:
            return None if self._home.id in tried else self._home
        left = (each for each in self._context.fleet.instances.alive() if each.id not in tried)
        return next(left, None)
