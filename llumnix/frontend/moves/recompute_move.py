"""Move a stream without a llumlet: warm the next server's cache, cut the stream, resume there.

The frontend makes the cut: it closes the stream and resumes it elsewhere by recomputing the tokens
the client has. With these in the next server's prefix cache beforehand, that takes a step or two.
"""

import asyncio
from collections.abc import Callable

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.server_calls import ServerCalls
from llumnix.frontend.splicing.transcript import Transcript
from llumnix.instances.instance import Instance


class RecomputeMove:
    """Moves one stream, one move at a time. `so_far` returns what its client has.

    `able` returns whether an instance can resume what the client has.
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
        """Return whether the stream can move to an instance now."""
        elsewhere = self.leg is not None and self.leg.instance is not target
        return elsewhere and self._outcome is None and self._able(target, self._so_far())

    async def go(self, target: Instance) -> bool:
        """Move the stream; return whether it arrived. False if it ended or moved before."""
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
        """Return the target of the move that cut the leg which just ended, if one did."""
        target, self._target = self._target, None
        return target

    def close(self) -> None:
        """Let go of the stream, which has ended."""
        self._so_far, self._able = Transcript, _never

    def goes_on(self, leg: Leg | None) -> None:
        """Note which leg the stream continues with; None if it has ended."""
        self.leg = leg
        outcome, going_to = self._outcome, self._going_to
        if outcome is not None and not outcome.done():
            outcome.set_result(leg is not None and leg.instance is going_to)


def _never(_target: Instance, _had: Transcript) -> bool:
    return False
