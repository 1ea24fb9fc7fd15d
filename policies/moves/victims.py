"""Which request a source moves away."""

from collections.abc import Sequence

from policies.types import RequestId, RequestPhase, RequestView


def choose_victim(
    views: Sequence[RequestView], max_context_tokens: int, now_s: float, cooldown_s: float
) -> RequestId | None:
    """Choose the running request to move: least urgent class, then shortest context, then latest.

    Never one that is queued or in prefill (little or nothing to move yet), immovable, larger than
    `max_context_tokens`, or moved within the last `cooldown_s` seconds; a drain passes 0, since it
    must move everything. None when there is no such request.
    """
    movable = [
        view
        for view in views
        if view.phase is RequestPhase.RUNNING
        and view.movable
        and view.context_tokens <= max_context_tokens
        and now_s - view.moved_at_s >= cooldown_s
    ]
    if not movable:
        return None
    return min(movable, key=_reluctance).request_id


def _reluctance(view: RequestView) -> tuple[int, int, int]:
    return (-view.class_index, view.context_tokens, -view.arrived_order)
