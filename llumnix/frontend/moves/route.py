"""A request's route through the fleet: which instance first, and which next when that one ends.

Three things end its stay on an instance: it is migrated (and claimed at the destination by the
migration's id), it is sent back to the queue, or the instance fails. In the last two cases any
instance can resume it from the token ids that the client's stream has so far.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from multidict import CIMultiDict

from llumnix.fleet.fleet import PlacementRequest
from llumnix.fleet.requests import ActiveRequest, ActiveState, Cuttable
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Late, Leg
from llumnix.frontend.moves.attempts import Attempts
from llumnix.frontend.moves.inquest import Inquest
from llumnix.frontend.moves.resume_body import graft_body, replay_body
from llumnix.frontend.moves.waits import Silent, Waits
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest
from llumnix.instances.instance import Instance
from policies.types import DispatchRequest, MigrationId


class Route:
    """Opens one leg after another. Failures since the last `progressed` are bounded.

    `headers` gives those that instances are sent: a new copy for each.
    """

    def __init__(
        self,
        context: ServingContext,
        request: ClientRequest,
        headers: Callable[[], CIMultiDict[str]],
        active: ActiveRequest,
    ) -> None:
        self._context = context
        self._request = request
        self._headers = headers
        self._active = active
        self._arrived_at_s = active.since_s
        self._claim: tuple[MigrationId | None, Instance] | None = None
        self._moving: str | None = None
        self._attempts = Attempts(context.config.max_attempts)
        self._inquest = Inquest(context, active.request_id)
        self._waits = Waits(context, request, active.request_id, self._attempts)
        self._served_model: str | None = None
        self._streamed = False

    async def open(
        self,
        token_ids: Sequence[int] | None,
        *,
        begun: bool = False,
        prompt_ids: Sequence[int] | None = None,
    ) -> Leg | UpstreamAnswer | Refusal:
        """Find an instance, send it the request and wait for its first bytes.

        `token_ids` are the output so far of a request to resume, None for a new one. `begun` says
        that the client has part of the stream; then a server without the plugin can resume it only
        if `prompt_ids` are given.
        """
        while True:
            convicted = await self._inquest.verdict(self._request.body)
            if convicted is not None:
                return self._opened(convicted)
            claim, self._claim = self._claim, None
            known, grafts = len(token_ids or ()), prompt_ids is not None
            target = claim[1] if claim else await self._place(known, begun=begun, grafts=grafts)
            if isinstance(target, Refusal):
                return self._opened(target)
            self._active.state = ActiveState.MOVING if begun else ActiveState.STARTING
            self._active.goes_to(target.id)
            if begun and not target.plugged:
                body = graft_body(self._request, prompt_ids, token_ids)
            else:
                body = self._body(target, claim[0] if claim else None, token_ids)
            late = self._waits.first_byte(target, known, begun=begun, grafts=grafts)
            result = await self._send(target, body, self._active, late)
            if begun:
                result = _only_stream(target, result)
            if not isinstance(result, Failure):
                if claim and claim[0] is not None:
                    self._context.fleet.claimed(self._active.request_id, claim[0])
                return self.adopt(target, result)
            end = self._failed(target, result, begun=begun)
            if end is not None:
                return self._opened(end)
            await asyncio.sleep(self._attempts.back_off_s())

    def adopt(
        self, target: Instance, result: Leg | UpstreamAnswer
    ) -> Leg | UpstreamAnswer | Refusal:
        """Note that an instance serves the request, whoever sent it there."""
        self._context.fleet.health.served(target)
        self._active.state = ActiveState.RUNNING
        self._streamed = self._streamed or isinstance(result, Leg)
        self._served_model = min(target.group.models, default=None)
        return self._opened(result)

    async def go_on(self, target: Instance, failure: Failure) -> Leg | UpstreamAnswer | Refusal:
        """Find another instance for a new request that an instance failed, whoever sent it."""
        end = self._failed(target, failure, begun=False)
        if end is not None:
            return self._opened(end)
        await asyncio.sleep(self._attempts.back_off_s())
        return await self.open(None)

    def starts_at(self, instance: Instance) -> None:
        """Choose where the request is tried first: the instance holds what it refers to."""
        self._claim = (None, instance)

    def too_silent(self, instance: Instance, quiet: Silent) -> FailureKind | None:
        """Return how a leg is to end that brings nothing, or None to wait on."""
        return self._waits.too_silent(instance, quiet)

    def early_destination(self, migration_id: MigrationId) -> Instance | None:
        """Return where to claim a migrating request early; None for nowhere."""
        claim = self._context.fleet.claim_at(migration_id) if self._request.resumable else None
        return claim[1] if claim and claim[1].plugged and claim[1].vllm else None

    async def claim_early(
        self,
        migration_id: MigrationId,
        target: Instance,
        token_ids: Sequence[int],
        waiting: Cuttable,
    ) -> Leg | UpstreamAnswer | Failure:
        """Claim the request at its migration's destination, while it still runs at the source."""
        body = self._body(target, migration_id, token_ids, early=True)
        result = await self._send(target, body, waiting)
        if self._request.streams:
            return _only_stream(target, result)
        if isinstance(result, UpstreamAnswer) and result.status != 200:
            return _failure(target, result)
        return result

    def follow(self, instance: Instance) -> None:
        """Note that the request continues where it was claimed early."""
        self._active.goes_to(instance.id)
        self._active.state = ActiveState.MOVING

    def arrived(self, migration_id: MigrationId) -> None:
        """Note that the request produces output where it was claimed early."""
        self._context.fleet.claimed(self._active.request_id, migration_id)
        self._claim = None
        self._active.state = ActiveState.RUNNING
        self._carried_on(ok=True)

    def handed_over(self, target: Instance) -> None:
        """Note that the stream was cut on purpose, to resume there."""
        self._leave("migrated")
        self._claim = (None, target) if target.alive else None

    def salvage(self, migration_id: MigrationId, instance: Instance, failure: Failure) -> None:
        """Note that an early claim failed: ask the destination again, then all others.

        The destination may hold the request's KV all the same, unless it refuses.
        """
        self._leave("migrated")
        self._claim = None
        if failure.kind is FailureKind.ANSWERED:
            self._attempts.barred |= {instance.id}
        elif failure.kind is not FailureKind.REFUSED:
            self._claim = self._context.fleet.claim_at(migration_id)

    def progressed(self) -> None:
        """Note that new output has arrived: earlier failures no longer count."""
        self._attempts.progressed()

    def migrated(self, migration_id: str) -> None:
        """Note that the request was migrated; the next leg claims it at the destination."""
        self._leave("migrated")
        self._claim = self._context.fleet.claim_at(MigrationId(migration_id))

    def requeued(self) -> Refusal | None:
        """Note that the request was sent back to be placed again; a Refusal if too often."""
        self._leave("requeued")
        return self._given_up(self._attempts.sent_back(self._active.instance_id))

    def broke(self, failure: Failure) -> Refusal | None:
        """Note that the instance failed a stream that had begun; a Refusal if it was the last one.

        If a migration is moving the request, or just has, its destination is asked first.
        """
        self._leave("instance_died")
        instance = self._context.fleet.instances.get(self._active.instance_id)
        end = self._failed(instance, failure, begun=True)
        assert not isinstance(end, UpstreamAnswer), "not where the client has part of a stream"
        return self._given_up(end)

    def _leave(self, reason: str) -> None:
        self._moving = reason
        self._active.state = ActiveState.MOVING
        self._context.fleet.forget(self._active.request_id)

    def _failed(
        self, instance: Instance | None, failure: Failure, *, begun: bool
    ) -> Refusal | UpstreamAnswer | None:
        """Note a failure; return how the request ends because of it, None if it does not."""
        fleet = self._context.fleet
        if instance is not None:
            self._blame(instance, failure)
        others = [each.id for each in fleet.instances.up() if each.group.serves(self._model())]
        end = self._attempts.failed(
            instance.id if instance else None, failure, others, begun=begun or self._streamed
        )
        claim = fleet.claim_of(self._active.request_id)
        shunned = self._attempts.avoided | self._attempts.barred
        if claim and claim[1].id not in shunned:
            self._claim = claim
        self._moving = self._moving or "instance_died"
        fleet.forget(self._active.request_id)
        self._active.instance_id = None
        return end

    def _blame(self, instance: Instance, failure: Failure) -> None:
        health, request_id = self._context.fleet.health, self._active.request_id
        self._inquest.note(instance, failure)
        match failure.kind:
            case FailureKind.STARVED:
                health.starved(failure.detail)
            case FailureKind.BUSY:
                health.busy(instance, request_id, failure.retry_after_s)
            case FailureKind.REFUSED:
                self._active.instance_id = None  # it never was there
                health.died(instance)
                self._context.fleet.suspect(instance, failure.detail)
            case FailureKind.SILENT if self._context.fleet.works(instance):
                health.passed_by(instance, request_id, failure.detail)
            case FailureKind.SILENT:
                health.failed(instance, request_id, failure.kind, failure.detail)
                health.trip(instance, failure.detail)
            case FailureKind.BROKEN | FailureKind.STALLED:
                health.failed(instance, request_id, failure.kind, failure.detail)
            case FailureKind.ANSWERED if failure.is_server_error:
                health.failed(instance, request_id, failure.kind, failure.detail)

    def _model(self) -> str | None:
        return self._request.model or self._served_model

    async def _place(self, output_tokens: int, *, begun: bool, grafts: bool) -> Instance | Refusal:
        # Whoever began the answer has settled its model, also where the request names none.
        model = self._request.model or (self._served_model if begun else None)
        ask = PlacementRequest(
            DispatchRequest(
                self._active.request_id,
                self._request.class_index,
                self._request.prompt_tokens + output_tokens,
                self._arrived_at_s,
                model=model or self._context.fleet.only_model(),
            ),
            self._attempts.avoided,
            self._attempts.barred,
            plugged_only=begun,
            or_vllm=grafts,
        )
        if not begun:
            self._active.state = ActiveState.QUEUED
        asked_at = time.monotonic()
        placed = await self._context.queue.place(ask)
        if self._moving is None:
            waited_s = self._context.fleet_seconds(time.monotonic() - asked_at)
            self._context.tally.waited(self._request.class_name, waited_s)
            self._active.account.queue_wait_s = waited_s
        return placed

    async def _send(
        self, target: Instance, body: bytes, waiting: Cuttable, late: Late | None = None
    ) -> Leg | UpstreamAnswer | Failure:
        return await self._context.upstream.send(
            target,
            self._request.path,
            body,
            self._headers(),
            streams=self._request.streams,
            waiting=waiting,
            patience=late,
        )

    def _body(
        self,
        target: Instance,
        migration_id: MigrationId | None,
        token_ids: Sequence[int] | None,
        *,
        early: bool = False,
    ) -> bytes:
        secret, request_id = self._context.fleet.secret, self._active.request_id
        return replay_body(
            self._request, request_id, target, secret, migration_id, token_ids, early=early
        )

    def _given_up(self, refusal: Refusal | None) -> Refusal | None:
        if refusal is not None:
            self._opened(refusal)
        return refusal

    def _opened(self, result: Leg | UpstreamAnswer | Refusal) -> Leg | UpstreamAnswer | Refusal:
        self._carried_on(ok=not isinstance(result, Refusal))
        return result

    def _carried_on(self, *, ok: bool) -> None:
        if self._moving is not None:
            self._context.tally.carried_on(self._moving, ok=ok)
            self._active.account.moves += ok
            self._moving = None


def _only_stream(target: Instance, result: Leg | UpstreamAnswer | Failure) -> Leg | Failure:
    return _failure(target, result) if isinstance(result, UpstreamAnswer) else result


def _failure(target: Instance, answer: UpstreamAnswer) -> Failure:
    return Failure(FailureKind.ANSWERED, f"{target.id} answered {answer.status}", answer.status)
