"""An engine model as llumlets see it, for emulated and simulated instances alike."""

from collections.abc import Callable, Sequence

from policies.types import RequestId, RequestPhase, RequestView
from simulator.engine.batch import EngineRequest, Place
from simulator.engine.roster import Roster


def request_views(
    roster: Roster, stays: Callable[[RequestId], bool] = lambda _: False
) -> Sequence[RequestView]:
    """List the requests here. Those that `stays` names, or that are about to leave, cannot move."""
    return [
        RequestView(
            request_id=request.request_id,
            class_index=request.class_index,
            phase=_phase(request),
            context_tokens=request.kv_tokens,
            arrived_order=request.arrived_order,
            movable=not request.detaching
            and request.place is not Place.DETACHED
            and not stays(request.request_id),
        )
        for request in roster.requests()
    ]


def decoded_kv_tokens(roster: Roster, request_id: RequestId) -> int | None:
    """Count the tokens of a decoding request whose KV exists; None for any other."""
    request = roster.get(request_id)
    if request is None or request.place is Place.QUEUED or not request.decoding:
        return None
    return request.kv_tokens


def requeueable(roster: Roster, request_id: RequestId) -> bool:
    """Whether a request could still start elsewhere: it is queued, and has no output.

    A preempted request keeps waiting: it has outputs, and is migrated once it runs again.
    """
    request = roster.get(request_id)
    return request is not None and request.place is Place.QUEUED and not request.output_tokens


def _phase(request: EngineRequest) -> RequestPhase:
    if request.place is Place.QUEUED:
        return RequestPhase.QUEUED
    return RequestPhase.RUNNING if request.decoding else RequestPhase.PREFILL
