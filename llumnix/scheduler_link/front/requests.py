"""A frontend's own requests: a table that tells the scheduler what becomes of them."""

import asyncio
from collections.abc import Callable
from typing import Any

from llumnix.fleet.requests import ActiveRequest, ActiveState, Places, RequestTable
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import Kind
from policies.types import InstanceId, RequestId

_SETTLED = (ActiveState.RUNNING,)


class _WatchedPlaces(Places):
    """Notes which requests have gone somewhere else."""

    def __init__(self, changed: Callable[[ActiveRequest], None]) -> None:
        super().__init__()
        self._changed = changed

    def moved(
        self, request: ActiveRequest, before: InstanceId | None, now: InstanceId | None
    ) -> None:
        """See Places."""
        super().moved(request, before, now)
        self._changed(request)

    def sent(self, request: ActiveRequest) -> None:
        """See Places."""
        super().sent(request)
        self._changed(request)


class ToldRequestTable(RequestTable):
    """Tells of every request: when it comes, where it goes, when it is over.

    `post` sends a message. What changes about a request is told at the end of the turn of the event
    loop, or by `tell`, which whoever sends anything else calls first.
    """

    def __init__(self, post: Callable[[Message], None]) -> None:
        super().__init__()
        self._post = post
        self._places = _WatchedPlaces(self.changed)
        self._changed: dict[ActiveRequest, None] = {}
        self._unsettled: dict[ActiveRequest, ActiveState] = {}
        self._tell_due = False

    def open(self, request: ActiveRequest) -> None:
        """See RequestTable."""
        super().open(request)
        self._changed.pop(request, None)
        self._unsettled[request] = request.state
        self._post(
            [
                Kind.OPENED,
                request.request_id,
                request.class_name,
                request.since_s,
                request.immovable,
            ]
        )

    def close(self, request_id: RequestId) -> None:
        """See RequestTable."""
        request = self.active[request_id]
        super().close(request_id)
        self._changed.pop(request, None)
        self._unsettled.pop(request, None)
        self._post([Kind.CLOSED, request_id])

    def changed(self, request: ActiveRequest) -> None:
        """Note that there is something to tell of a request."""
        self._changed[request] = None
        if not self._tell_due:
            self._tell_due = True
            asyncio.get_running_loop().call_soon(self.tell)

    def tell(self) -> None:
        """Tell what has changed since the last time."""
        self._tell_due = False
        changed, self._changed = self._changed, {}
        for request in changed:
            self._note_state(request)
            self._post([Kind.STATE, *state_of(request)])

    def tell_unsettled(self) -> None:
        """Tell the states that have changed by themselves; to be called now and then."""
        for request, told in list(self._unsettled.items()):
            if request.state is not told:
                self._note_state(request)
                self._post([Kind.STATE, *state_of(request)])

    def whole(self) -> list[list[Any]]:
        """Return all that there is to tell of every request."""
        self._changed.clear()
        for each in self.active.values():
            self._note_state(each)
        return [
            [*state_of(each), each.class_name, each.since_s, each.immovable, _tokens(each)]
            for each in self.active.values()
        ]

    def flowed(self) -> dict[str, float]:
        """Return when a stream of each instance last brought something, where one ever did."""
        flowed: dict[str, float] = {}
        for each in self.active.values():
            if each.instance_id is not None:
                at_s = each.heard_at_s()
                if at_s > flowed.get(each.instance_id, 0.0):
                    flowed[each.instance_id] = at_s
        return flowed

    def _note_state(self, request: ActiveRequest) -> None:
        if request.state in _SETTLED:
            self._unsettled.pop(request, None)
        else:
            self._unsettled[request] = request.state


def state_of(request: ActiveRequest) -> list[Any]:
    """Return what a STATE says of a request."""
    return [
        request.request_id,
        str(request.state),
        request.instance_id,
        request.placed_at_s,
        request.flows_since_s,
    ]


def _tokens(request: ActiveRequest) -> int:
    """Return how much of the context is known to be held: for the ledger of what is on its way."""
    return request.account.prompt_tokens + request.tokens()
