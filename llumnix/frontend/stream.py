"""One client's stream, over as many instances as it takes.

Per token there is one call of the strand and one write; everything else happens when the stream
begins, moves or ends.
"""

import time
from typing import Literal

from aiohttp import web

from llumnix.frontend import sse
from llumnix.frontend.client import ClientStream
from llumnix.frontend.desk import Desk
from llumnix.frontend.headers import to_client
from llumnix.frontend.idle import IdleWatch
from llumnix.frontend.ledger import Ledger, Pace
from llumnix.frontend.openai import Refusal
from llumnix.frontend.request import ClientRequest
from llumnix.frontend.route import Route
from llumnix.frontend.splice import Diverged
from llumnix.frontend.sse import Redirect
from llumnix.frontend.strand import Overlong, Strand
from llumnix.frontend.transcript import Transcript, read
from llumnix.frontend.upstream import Answer, Failure, Leg
from llumnix.request_table import ActiveRequest

_SILENT_S = 1.0

Outcome = Literal["finished", "failed", "rejected"]


class StreamRelay:
    """Carries one stream from its instances to its client."""

    def __init__(
        self,
        desk: Desk,
        http: web.Request,
        request: ClientRequest,
        route: Route,
        active: ActiveRequest,
        arrived_at: float,
    ) -> None:
        self.pace = Pace()
        self._desk = desk
        self._client = ClientStream(http)
        self._request = request
        self._route = route
        self._active = active
        self._arrived_at = arrived_at
        self._had = Transcript()
        self._ledger = Ledger()
        self._leg: Leg | None = None
        self._watch = IdleWatch(desk.config.idle_timeout_s, self._on_idle)
        self._writing = False
        self._stalled = False
        self._fault: Diverged | Overlong | None = None
        self._moved_at: tuple[float, bool] | None = None
        active.tokens = self.tokens

    def tokens(self) -> int:
        """Count the output tokens sent so far."""
        return max(len(self._had.token_ids), self._ledger.tokens())

    async def run(self, leg: Leg) -> tuple[web.StreamResponse, Outcome]:
        """Relay from the first leg to the end of the stream, wherever that is."""
        with self._watch:
            refusal = await self._follow(leg)
        if refusal is not None:
            return await self._fail(refusal), "failed"
        response = await self._client.end()
        self._count()
        return response, "finished"

    async def _follow(self, leg: Leg) -> Refusal | None:
        """Follow the stream from leg to leg; give a Refusal when it cannot be carried on."""
        while True:
            self._leg = leg
            self._active.cut = self._on_instance_down
            try:
                end = await self._pump(leg)
            except Diverged as error:
                self._desk.tally.diverged()
                return Refusal(502, f"the stream could not be carried on: {error}", "mismatch")
            finally:
                leg.close()
            if end is None:
                return None
            refusal = self._note_end(end)
            if refusal is not None:
                return refusal
            if self._complete():
                await self._send(sse.DONE, leg)
                return None
            begun = self._had.events > 0
            opened = await self._route.open(self._had.token_ids, begun=begun)
            if isinstance(opened, Refusal):
                return opened
            if isinstance(opened, Answer):
                return Refusal(502, f"no stream, but status {opened.status}", "bad_gateway")
            leg = opened

    async def _pump(self, leg: Leg) -> Redirect | Failure | None:
        """Forward one leg; None when the stream has ended as it should."""
        strand = Strand(
            self._had,
            plugged=leg.instance.plugged,
            hides_ids=self._request.hides_ids,
            event_limit_bytes=self._desk.config.event_limit_bytes,
        )
        self._ledger = strand.ledger
        self._stalled = False
        data, broken = leg.first, ""
        try:
            while data:
                data = strand.feed(data)
                if data:
                    await self._send(data, leg)
                if self._client.flows and self._moved_at is None and strand.redirect is None:
                    await leg.pour(lambda some: self._pass_on(some, strand))
                if self._fault is not None:
                    raise self._fault
                if strand.redirect is not None:
                    return strand.redirect
                try:
                    data = await leg.read()
                except OSError as error:
                    data, broken = b"", f"{leg.instance.id} broke off: {error!r}"
        except Overlong as error:
            return Failure("broken", f"{leg.instance.id} sent {error}")
        left = strand.end(cut_off=bool(broken))
        if left is None:
            kind: Literal["stalled", "broken"] = "stalled" if self._stalled else "broken"
            return Failure(kind, broken or f"{leg.instance.id} ended its stream too early")
        if left:
            await self._send(left, leg)
        return None

    def _pass_on(self, data: bytes, strand: Strand) -> bool:
        """Forward what was just read, from within the read: the way of nearly every token."""
        try:
            data = strand.feed(data)
        except (Diverged, Overlong) as error:
            self._fault = error
            return False
        if data:
            self.pace.last_at = self._watch.touched_at = time.monotonic()
            self._client.push(data)
        return strand.redirect is None and self._client.flows

    async def _send(self, data: bytes, leg: Leg) -> None:
        now = time.monotonic()
        if not self._client.begun:
            headers = to_client(leg.head.headers, self._active.request_id, streams=True)
            await self._client.begin(leg.head.status, headers)
            self.pace.first_at = now
            waited_s = self._desk.fleet_seconds(now - self._arrived_at)
            self._desk.tally.first_token(self._request.class_name, waited_s)
        elif self._moved_at is not None:
            self._count_move(now)
        self.pace.last_at = self._watch.touched_at = now
        self._writing = True
        await self._client.write(data)
        self._writing = False

    def _note_end(self, end: Redirect | Failure) -> Refusal | None:
        """Take stock of what the client has, and tell the route why this leg ended."""
        seen = read(self._ledger.raw())
        if seen.size() > self._had.size():
            seen.head = self._had.head or seen.head
            self._had = seen
            self._route.progressed()
        if self._had.events and not self._resumable():
            detail = end.detail if isinstance(end, Failure) else "it was sent elsewhere"
            return Refusal(502, f"the stream broke and cannot be carried on: {detail}", "broken")
        if self._client.begun:
            migrated = isinstance(end, Redirect) and end.migration_id is not None
            self._moved_at = self.pace.last_at, migrated
        if isinstance(end, Failure):
            return self._route.broke(end)
        if end.migration_id is None:
            return self._route.requeued()
        self._route.migrated(end.migration_id)
        return None

    def _resumable(self) -> bool:
        # Resuming on servers without our plugin (by recompute from text) would begin here.
        return self._request.resumable and self._leg is not None and self._leg.instance.plugged

    def _complete(self) -> bool:
        """Say whether the client has everything but the final [DONE]."""
        return self._had.finished and (self._had.usage or not self._request.wants_usage)

    async def _fail(self, refusal: Refusal) -> web.StreamResponse:
        if not self._client.begun:
            return refusal.response()
        await self._client.write(refusal.event())
        return await self._client.end()

    def _count_move(self, now: float) -> None:
        assert self._moved_at is not None
        (last_at, migrated), self._moved_at = self._moved_at, None
        gap_s = now - last_at
        interval_s = self.pace.mean_interval_s(len(self._had.token_ids))
        self.pace.add_gap(gap_s)
        if migrated:
            speed = self._desk.fleet_seconds
            self._desk.tally.moved(speed(gap_s), speed(max(0.0, gap_s - interval_s)))

    def _count(self) -> None:
        tokens = self.tokens() or sse.count_chunks(self._ledger.raw())
        spent_s = self.pace.last_at - self.pace.first_at
        seconds = self._desk.fleet_seconds
        self._desk.tally.answered(
            self._request.class_name,
            seconds(self.pace.last_at - self._arrived_at),
            tokens,
            seconds(spent_s / (tokens - 1)) if tokens > 1 else None,
        )

    def _on_instance_down(self) -> None:
        """Cut a silent leg: its instance hangs. One that still flows may flow on to its end."""
        silent_s = time.monotonic() - self._watch.touched_at
        if self._leg is not None and not self._writing and silent_s > _SILENT_S:
            self._leg.close()

    def _on_idle(self) -> None:
        """Cut whichever side keeps the stream waiting."""
        if self._writing:
            self._client.cut()
        elif self._leg is not None:
            self._stalled = True
            self._leg.close()
