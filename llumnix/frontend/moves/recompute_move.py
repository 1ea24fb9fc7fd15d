"""Handing a stream over without a llumlet: warm the next server's cache, cut, carry on there.

The cut is ours: the stream is closed and computed on elsewhere from the tokens the client has. With
these in the next server's prefix cache beforehand, that costs a step or two.
"""

import asyncio
from collections.abc import Callable

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.server_calls import ServerCalls
from llumnix.frontend.splicing.transcript import Transcript
from llumnix.instances.instance import Instance


class RecomputeMove:
    """The hand-over of one stream, one at a time. `so_far` reads what its client has.

    `able` says whether an instance can carry on what the client has.
    """

    def __init__(
        self,
        config: FrontendConfig,
        server_calls: ServerCalls,
        so_far: Callable[[], Transcript],
        able: Callable[[Instance, Transcript], bool],
    ) -> None:
        self.leg: Leg | None = None
        self._config = config
        self._server_calls = server_calls
        self._so_far = so_far
        self._able = able
        self._target: Instance | None = None
        self._going_to: Instance | None = None
        self._outcome: asyncio.Future[bool] | None = None

    def can_go_to(self, target: Instance) -> bool:
        """Say whether the stream can be handed over to an instance now."""
        elsewhere = self.leg is not None and self.leg.instance is not target
        return elsewhere and self._outcome is None and self._able(target, self._so_far())

    async def go(self, target: Instance) -> bool:
        """Hand the stream over; say whether it has arrived. False if it ended, or moved, before."""
        leg = self.leg
        if leg is None or not self.can_go_to(target):
            return False
        self._outcome = asyncio.get_running_loop().create_future()
        try:
            had = self._so_far()
            ids = [*had.prompt_ids, *had.token_ids]
            if ids:
                await self._server_calls.warm(target, ids, self._config.helper_timeout_s)
            if self.leg is not leg or not target.alive:
                return False
            self._target = self._going_to = target
            leg.close()
            return await self._outcome
        finally:
            self._outcome = self._target = self._going_to = None

    def take_target(self) -> Instance | None:
        """Say where the leg that has just ended was to go, if it was cut for that."""
        target, self._target = self._target, None
        return target

    def goes_on(self, leg: Leg | None) -> None:
        """Note which leg the stream goes on with; None when it has ended."""
        self.leg = leg
        outcome, going_to = self._outcome, self._going_to
        if outcome is not None and not outcome.done():
            outcome.set_result(leg is not None and leg.instance is going_to)
