"""One client's stream, across as many instances as it takes.

Per token there is one call to the leg filter and one write; everything else happens when the stream
begins, moves or ends.
"""

import time
from collections.abc import Callable, Mapping
from typing import Literal

from aiohttp import web

from llumnix.fleet.requests import ActiveRequest, nothing
from llumnix.frontend.context import ServingContext
from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.http.client import ClientStream
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims, Impatient
from llumnix.frontend.moves.continuation import Continuation
from llumnix.frontend.moves.recompute_move import RecomputeMove
from llumnix.frontend.moves.route import Route
from llumnix.frontend.moves.server_calls import ServerCalls
from llumnix.frontend.pump.pump import Flow
from llumnix.frontend.pump.stint import carried
from llumnix.frontend.relay.leg_watch import LegWatch
from llumnix.frontend.relay.timing import Timing
from llumnix.frontend.request.headers import to_client
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.leg_filter import LegFilter, Overlong
from llumnix.frontend.splicing.splice import Diverged
from llumnix.frontend.splicing.sse import ClaimRefused, Redirect
from llumnix.frontend.splicing.transcript import Transcript, says_something
from llumnix.instances.instance import Instance

Outcome = Literal["finished", "failed", "rejected"]
End = Redirect | Failure


class StreamRelay:
    """Relays one stream from its instances to its client."""

    def __init__(
        self,
        context: ServingContext,
        client: ClientStream,
        headers: Callable[[], Mapping[str, str]],
        request: ClientRequest,
        route: Route,
        active: ActiveRequest,
        claims: Claims,
        arrived_at: float,
        record: DeliveredStream | None = None,
    ) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._route = route
        self._active = active
        self._claims = claims
        self._timing = Timing(context, request.class_name, arrived_at, active.account)
        self._pace = self._timing.pace
        self._record = DeliveredStream() if record is None else record
        server_calls = ServerCalls(context.upstream.session, request.model, headers)
        self._continuation = Continuation(context.config, request, server_calls)
        self._recompute_move = RecomputeMove(
            context.config, server_calls, self._record.so_far, self._able
        )
        self._leg: Leg | None = None
        self._flow: Flow | None = None
        self._watch = LegWatch(
            *(context, request, route, active, claims, self._client, self._record, self._pace),
            resumable=self._resumable,
            grafts=lambda had: self._continuation.by_graft(had, had.token_ids),
        )
        self._idle = self._watch.idle
        self._last_words = b""
        self._fault: Diverged | Overlong | None = None
        active.tokens = self._record.tokens
        active.heard_at_s = self._heard_at
        self._idle.refresh = self._heard_at
        claims.token_ids, claims.prepare = self._record.token_ids, self._record.read_ahead
        claims.hand_over_by(self._recompute_move)

    def close(self) -> None:
        """Let go of all that refers back here, once the stream is over.

        Streams last long enough for their objects to count as old: in a circle, they would stay
        until the collector looks at everything there is, which it is kept from doing often.
        """
        active = self._active
        active.tokens, active.heard_at_s, active.cut = int, float, nothing
        self._watch.close()
        self._recompute_move.close()

    async def run(self, leg: Leg) -> tuple[web.StreamResponse, Outcome]:
        """Relay from the first leg to the end of the stream."""
        try:
            with self._idle:
                refusal = await self._follow(leg)
        finally:
            self._recompute_move.goes_on(None)
            tokens = self._record.tokens() or self._record.chunks()
            self._timing.ended(tokens)
        if refusal is not None:
            self._active.account.cause = refusal.cause()
            return await self._fail(refusal), "failed"
        response = await self._client.end()
        self._timing.finished(tokens)
        self._context.patience.saw_gap(
            self._request.class_index, self._pace.mean_interval_s(tokens)
        )
        return response, "finished"

    async def _follow(self, leg: Leg) -> Refusal | None:
        """Follow the stream from leg to leg; return a Refusal if it cannot be resumed."""
        while True:
            self._leg = leg
            self._active.cut = self._watch.on_instance_down
            self._recompute_move.goes_on(leg)
            try:
                end = await self._pump(leg)
                self._watch.end()
                if end is None:
                    return None
                if not self._claims.unproven:
                    leg.close()
                refusal = self._note_end(end)
                if refusal is None and self._complete():
                    await self._send(sse.DONE, leg)
                    return None
                opened = refusal or await self._open_next(end)
            except Diverged as error:
                self._context.tally.diverged()
                return Refusal(502, f"the stream could not be resumed: {error}", "mismatch")
            finally:
                self._watch.end()
                leg.close()
            if isinstance(opened, Refusal):
                return opened
            if isinstance(opened, UpstreamAnswer):
                return Refusal(502, f"expected a stream, got status {opened.status}", "bad_gateway")
            leg = opened

    async def _open_next(self, end: End) -> Leg | UpstreamAnswer | Refusal:
        """Continue with the early claim, else open a leg where the route says."""
        if isinstance(end, Redirect):
            followed = await self._claims.follow(end.migration_id, patient=False)
            if followed is not None:
                return followed
        had, ids = self._record.had, self._record.known_ids()
        begun = had.said or bool(ids)
        grafts = begun and self._continuation.by_graft(had, ids)
        opened = await self._route.open(
            ids if begun else None, begun=begun, prompt_ids=had.prompt_ids if grafts else None
        )
        self._claims.close()
        return opened

    async def _pump(self, leg: Leg) -> End | None:
        """Forward one leg; None if the stream has ended properly."""
        record = self._record
        strand = await self._continuation.strand(leg, record.had, record.kept, record.known_ids())
        if isinstance(strand, Failure):
            return strand
        record.follow(strand)
        self._watch.begin(leg)
        data, broken = leg.first, ""
        try:
            while data:
                data = strand.feed(data)
                if data:
                    self._watch.said = self._watch.said or says_something(data)
                    await self._send(data, leg)
                if self._claims.unproven and record.shown() > len(record.had.token_ids):
                    self._claims.prove()
                if self._flows and not strand.over:
                    await self._pour_in_c(leg, strand)
                if self._flows and not strand.over:
                    await leg.pour(lambda some: self._pass_on(some, strand))
                if self._fault is not None:
                    raise self._fault
                if strand.let_go is not None:
                    return self._let_go(strand.let_go, leg)
                if strand.error is not None and self._watch.can_go_on():
                    return self._errored(strand.error, leg)
                if strand.error is not None:
                    await self._send(strand.resign(), leg)
                if strand.over:
                    return None
                try:
                    data = await self._claims.read(leg)
                except OSError as error:
                    data, broken = b"", f"{leg.instance.id} broke off: {error!r}"
        except Impatient as error:
            return Failure(FailureKind.STALLED, str(error))
        except Overlong as error:
            return Failure(FailureKind.BROKEN, f"{leg.instance.id} sent {error}")
        left = strand.end(cut_off=bool(broken))
        if left is None or not (self._watch.said or left):
            kind = self._watch.closed_as or FailureKind.BROKEN
            return Failure(kind, broken or f"{leg.instance.id} ended its stream too early")
        if left:
            await self._send(left, leg)
        self._claims.prove()
        return None

    @property
    def _flows(self) -> bool:
        """Whether only tokens are expected, each to be forwarded at once."""
        still = self._timing.paused or self._claims.unproven or not self._watch.said
        return self._client.flows and not still

    async def _pour_in_c(self, leg: Leg, strand: LegFilter) -> None:
        """Have the pump pass on what it can, if there is one."""
        if self._context.pump is None:
            return
        with carried(self._context.pump, leg, self._client, strand) as stint:
            self._flow = stint.flow
            try:
                await stint.over()
            finally:
                self._heard_at()
                self._flow = None
        if stint.left:
            self._pass_on(stint.left, strand)

    def _heard_at(self) -> float:
        """Return when the stream last brought something, in wall seconds."""
        if self._flow is not None:
            self._pace.last_at = self._idle.touched_at = self._flow.last_at()
        return self._pace.last_at

    def _pass_on(self, data: bytes, strand: LegFilter) -> bool:
        """Forward what was just read, from within the read: the path of nearly every token."""
        try:
            data = strand.feed(data)
        except (Diverged, Overlong) as error:
            self._fault = error
            return False
        if data:
            self._pace.last_at = self._idle.touched_at = time.monotonic()
            self._client.push(data)
        return not strand.over and self._client.flows

    async def _send(self, data: bytes, leg: Leg) -> None:
        now = time.monotonic()
        if not self._client.begun:
            headers = to_client(leg.head.headers, self._active.shown_id, streams=True)
            await self._client.begin(leg.head.status, headers)
            self._timing.first(now)
        elif self._timing.paused:
            self._timing.goes_on(now, len(self._record.had.token_ids))
        if self._watch.said and self._active.flows_since_s is None:
            self._watch.produced(now, leg)
        self._pace.last_at = self._idle.touched_at = now
        self._watch.writing = True
        await self._client.write(data)
        self._watch.writing = False

    def _let_go(self, how: Redirect | ClaimRefused, leg: Leg) -> End:
        """Return how a leg ended that its instance has let go, and keep its last tokens."""
        if isinstance(how, ClaimRefused):
            self._context.tally.forged("resume_refused")
            return Failure(FailureKind.ANSWERED, f"{leg.instance.id} refused: {how.reason}", 403)
        self._record.keep(how.choice)
        return how

    def _errored(self, error: sse.ServerError, leg: Leg) -> Failure:
        """Return how a leg ended whose instance said that it failed the request."""
        self._last_words = error.rest
        detail = f"{leg.instance.id} failed the stream: {error.message}"
        busy = error.status in (429, 503)
        return Failure(FailureKind.BUSY if busy else FailureKind.ANSWERED, detail, error.status)

    def _note_end(self, end: End) -> Refusal | None:
        """Record what the client has, and tell the route why this leg ended."""
        if self._record.note():
            self._route.progressed()
        handed_to = self._recompute_move.take_target()
        if self._record.had.said and not self._resumable(self._record.had):
            detail = end.detail if isinstance(end, Failure) else "it was sent elsewhere"
            return Refusal(502, f"the stream broke and cannot be resumed: {detail}", "broken")
        moved = isinstance(end, Redirect) and end.migration_id is not None
        if self._client.begun:
            self._timing.left(migrated=moved or handed_to is not None)
        if isinstance(end, Redirect) and end.migration_id is not None:
            self._claims.prove()
            self._route.migrated(end.migration_id)
            return None
        if handed_to is not None:
            self._route.handed_over(handed_to)
            return None
        if self._claims.unproven:
            self._claims.fail(end if isinstance(end, Failure) else _SENT_BACK)
            return None
        return self._route.broke(end) if isinstance(end, Failure) else self._route.requeued()

    def _resumable(self, had: Transcript) -> bool:
        """Return whether any instance could resume what the client has."""
        assert self._leg is not None
        if self._continuation.by_graft(had, self._record.kept.after(had.token_ids)):
            return True
        plugged = self._leg.instance.plugged or self._context.fleet.instances.any_plugged()
        return plugged and self._continuation.by_replay(self._leg.instance, had)

    def _able(self, target: Instance, had: Transcript) -> bool:
        """Return whether this instance can resume what the client has by now."""
        assert self._leg is not None
        if target.plugged:
            return self._continuation.by_replay(self._leg.instance, had)
        return target.vllm and self._continuation.by_graft(had, had.token_ids)

    def _complete(self) -> bool:
        """Return whether the client has everything but the final [DONE]."""
        had = self._record.had
        return had.finished and (had.usage or not self._request.wants_usage)

    async def _fail(self, refusal: Refusal) -> web.StreamResponse:
        if not self._client.begun:
            return refusal.response()
        await self._client.write(self._last_words or refusal.event())
        return await self._client.end()


_SENT_BACK = Failure(FailureKind.UNABLE, "it was sent back")
