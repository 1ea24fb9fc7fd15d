"""Early claims: the continuation of a request, posted to the destination of its migration.

An engine that binds a migrated request late (vLLM) allocates its memory, tokenizes, compiles and
replays for it while the request still runs at its source. So the claim is sent when the migration
starts; by the time the source's stream ends with the redirect, the response to the claim is there.
It is not read before then, so that unread data is bounded by the socket buffers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from llumnix.fleet.requests import ActiveRequest, ActiveState, Cuttable, nothing
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.recompute_move import RecomputeMove
from llumnix.frontend.moves.route import Route
from llumnix.instances.instance import Instance
from policies.types import InstanceId, MigrationId

Ask = Callable[[Cuttable], Awaitable[Leg | UpstreamAnswer | Failure]]


async def _nothing_to_do() -> None:
    return


class Impatient(Exception):  # noqa: N818 - an outcome, acted on by the relay
    """An early claim delivered nothing new in time."""


class EarlyClaim:
    """One claim, pending or answered. Closing it cancels its request at the destination."""

    def __init__(self, migration_id: MigrationId, instance: Instance, ask: Ask) -> None:
        self.migration_id = migration_id
        self.instance = instance
        self._cut: Callable[[], None] = nothing
        self._closed = False
        self._task = asyncio.ensure_future(ask(self))
        self._task.add_done_callback(self._answered)

    async def answer(self, until: float | None) -> Leg | UpstreamAnswer | Failure:
        """Wait for the response, up to a time on the event loop's clock."""
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(self._task)
        except TimeoutError:
            message = f"{self.instance.id} did not resume the request in time"
            return Failure(FailureKind.STALLED, message)

    def cut_by(self, cut: Callable[[], None]) -> None:
        """Set the function that ends the wait for the response."""
        self._cut = cut

    def cut(self) -> None:
        """End the wait for the response: the instance is dead."""
        self._cut()

    def close(self) -> None:
        """Give up the claim, whatever became of it."""
        self._closed = True
        if not self._task.cancel():
            self._answered(self._task)

    def _answered(self, task: "asyncio.Future[Leg | UpstreamAnswer | Failure]") -> None:
        if not self._closed or task.cancelled():
            return
        answer = task.result()
        if isinstance(answer, Leg):
            answer.close()


class Claims:
    """The early claims of one request: at most one is pending, at most one is followed.

    `token_ids` returns the output so far; `prepare` does in advance what a move allows. The mover
    reports migrations to it. A claim that is followed is `unproven` until it delivers something
    new: until then patience is short, and it stays open while the destination is asked again,
    because closing it would cancel the request there.
    """

    def __init__(self, config: FrontendConfig, route: Route, active: ActiveRequest) -> None:
        self.token_ids: Callable[[], Sequence[int]] = list
        self.prepare: Callable[[], Coroutine[None, None, None]] = _nothing_to_do
        self._config = config
        self._route = route
        self._active = active
        self._waiting: EarlyClaim | None = None
        self._followed: EarlyClaim | None = None
        self._failed: EarlyClaim | None = None
        self._hand_over: RecomputeMove | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._patient_until = 0.0
        self._over: frozenset[str] = frozenset()

    @property
    def unproven(self) -> bool:
        """Whether the claim being followed has delivered nothing new yet."""
        return self._followed is not None

    def hand_over_by(self, hand_over: RecomputeMove) -> None:
        """Set how the request's stream moves without a llumlet."""
        self._hand_over = hand_over

    def can_be_handed_to(self, target: Instance) -> bool:
        """Return whether the frontend can resume the request on an instance by recompute."""
        return self._hand_over is not None and self._hand_over.can_go_to(target)

    async def hand_over(self, target: Instance) -> bool:
        """Move the request there by recompute; return whether it moved."""
        return self._hand_over is not None and await self._hand_over.go(target)

    def started(self, migration_id: MigrationId, source: InstanceId) -> None:
        """Claim the request at its destination, if it still runs at the source."""
        runs = self._active.state in (ActiveState.STARTING, ActiveState.RUNNING)
        if migration_id in self._over or not runs or self._active.instance_id != source:
            return
        destination = self._route.early_destination(migration_id)
        if destination is None or (self._waiting and self._waiting.migration_id == migration_id):
            return
        self._drop_waiting()
        ids = self.token_ids()
        self._waiting = EarlyClaim(
            migration_id,
            destination,
            lambda claim: self._route.claim_early(migration_id, destination, ids, claim),
        )
        self._preparing = asyncio.create_task(self.prepare())

    def ended(self, migration_id: MigrationId) -> None:
        """Note that a migration failed: the request stays where it is."""
        if self._waiting is not None and self._waiting.migration_id == migration_id:
            self._drop_waiting()

    async def follow(
        self, migration_id: str | None, *, patient: bool
    ) -> Leg | UpstreamAnswer | None:
        """Continue with the claim made for a migration that has moved the request.

        Returns None if there was no claim, or if it failed, which the route then knows. `patient`:
        wait as long as it takes.
        """
        claim = self._take(migration_id)
        if claim is None:
            return None
        now = asyncio.get_running_loop().time()
        self._patient_until = now + self._config.claim_patience_s
        self._followed = claim
        self._route.follow(claim.instance)
        self._active.cut = claim.cut
        answer = await claim.answer(None if patient else self._patient_until)
        if isinstance(answer, Failure):
            self.fail(answer)
            return None
        return answer

    async def read(self, leg: Leg) -> bytes:
        """Read from a leg, with little patience while it is unproven; may then raise Impatient."""
        if self._followed is None:
            return await leg.read()
        try:
            async with asyncio.timeout_at(self._patient_until) as patience:
                return await leg.read()
        except TimeoutError:
            if patience.expired():
                raise Impatient(f"{leg.instance.id} sent nothing new in time") from None
            raise

    def prove(self) -> None:
        """Note that the claim being followed, if any, has delivered something new."""
        if self._followed is not None:
            self._route.arrived(self._followed.migration_id)
            self._followed = None

    def fail(self, failure: Failure) -> None:
        """Note that the claim being followed has failed; it is kept open until `close`."""
        claim, self._followed = self._followed, None
        assert claim is not None, "one is followed"
        self._failed = claim
        self._route.salvage(claim.migration_id, claim.instance, failure)

    def close(self) -> None:
        """Give up every claim that has not been proved."""
        self._drop_waiting()
        for claim in (self._followed, self._failed):
            if claim is not None:
                claim.close()
        self._followed = self._failed = None

    def _take(self, migration_id: str | None) -> EarlyClaim | None:
        if migration_id is None:
            return None
        self._over |= {migration_id}
        claim = self._waiting
        if claim is None or claim.migration_id != migration_id:
            return None
        self._waiting = None
        return claim

    def _drop_waiting(self) -> None:
        if self._waiting is not None:
            self._over |= {self._waiting.migration_id}
            self._waiting.close()
            self._waiting = None
        if self._preparing is not None:
            self._preparing.cancel()
            self._preparing = None
