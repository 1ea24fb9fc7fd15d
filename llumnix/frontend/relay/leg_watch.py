"""Watch the instance that a stream is fed from, and end its leg when nothing more will come.

The instance may be found dead or hung, or merely send nothing; or the client does not read.
"""

from collections.abc import Callable

from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.context import ServingContext
from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.http.client import ClientStream
from llumnix.frontend.http.idle import IdleWatch
from llumnix.frontend.http.outcome import FailureKind
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims
from llumnix.frontend.moves.route import Route
from llumnix.frontend.moves.waits import Silent
from llumnix.frontend.request.request import ClientRequest
from llumnix.frontend.splicing.ledger import Pace
from llumnix.frontend.splicing.transcript import Transcript

_SILENT_S = 1.0


class LegWatch:
    """Watches one stream, from leg to leg.

    `resumable` returns whether any instance could resume what the client has, `grafts` whether a
    vLLM without the plugin could. `idle` is touched with whatever comes. `writing` is set while a
    write to the client is under way, `said` once the client was told something. `closed_as` says
    how the present leg was ended, if it was ended here.
    """

    def __init__(
        self,
        context: ServingContext,
        request: ClientRequest,
        route: Route,
        active: ActiveRequest,
        claims: Claims,
        client: ClientStream,
        record: DeliveredStream,
        pace: Pace,
        resumable: Callable[[Transcript], bool],
        grafts: Callable[[Transcript], bool],
    ) -> None:
        self.writing = False
        self.said = False
        self.closed_as: FailureKind | None = None
        config = context.config
        self.idle = IdleWatch(min(config.patience_s, config.idle_timeout_s), self._on_idle)
        self._context = context
        self._request = request
        self._route = route
        self._active = active
        self._claims = claims
        self._client = client
        self._record = record
        self._pace = pace
        self._resumable = resumable
        self._grafts = grafts
        self._leg: Leg | None = None

    def begin(self, leg: Leg) -> None:
        """Note that the stream is fed from this leg now."""
        self._leg, self.closed_as = leg, None

    def end(self) -> None:
        """Note that the leg is over."""
        self._leg = None

    def close(self) -> None:
        """Let go of the stream."""
        self._resumable = self._grafts = _never

    def can_go_on(self) -> bool:
        """Return whether another instance could go on from what has been sent so far."""
        had = self._record.so_far()
        return not had.said or self._resumable(had)

    def produced(self, now: float, leg: Leg) -> None:
        """Note the first bytes that say something new on an instance; others learn from it."""
        self._active.flows_since_s = now
        self._context.fleet.health.flows(self._active.request_id)
        request, patience = self._request, self._context.patience
        patience.settled(self._active.request_id)
        if leg.asked_at and not self._record.had.events:
            patience.saw_first_byte(request.class_index, request.prompt_tokens, now - leg.asked_at)

    def on_instance_down(self) -> None:
        """Cut a silent leg, whose instance is dead, or hangs while another could go on.

        One that still flows may flow on to its end.
        """
        leg = self._leg
        if leg is None or self.writing or self.idle.silent_s() <= _SILENT_S:
            return
        if not leg.instance.fitness.hung or self.can_go_on():
            self._close(leg, FailureKind.CUT)

    def _on_idle(self, silent_s: float) -> None:
        """Cut the side that stalls the stream, if nothing better is to be expected of it."""
        ceiling_s, leg = self._context.config.idle_timeout_s, self._leg
        if self.writing:
            if silent_s >= ceiling_s:
                self._client.cut()
            return
        if leg is None or self._claims.unproven:  # claims have a patience of their own
            return
        if self.can_go_on():
            had = self._record.so_far()
            silent = Silent(silent_s, self._may_pause_s(), ceiling_s, had.said, self._grafts(had))
            kind = self._route.too_silent(leg.instance, silent)
        else:
            kind = FailureKind.STALLED if silent_s >= ceiling_s else None
        if kind is not None:
            self._close(leg, kind)

    def _may_pause_s(self) -> float:
        """Return how long a pause is usual at this point of the stream."""
        request, patience = self._request, self._context.patience
        floor_s = self._context.config.patience_s
        if not self.said:
            return patience.first_byte_s(request.class_index, request.prompt_tokens, floor_s)
        own_s = self._pace.mean_interval_s(self._record.tokens() or self._record.chunks())
        return patience.gap_s(request.class_index, own_s, floor_s)

    def _close(self, leg: Leg, kind: FailureKind) -> None:
        self.closed_as = kind
        leg.close()


def _never(_had: Transcript) -> bool:
    return False
