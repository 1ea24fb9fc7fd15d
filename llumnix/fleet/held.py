"""The requests that no instance could start yet, and which reports are worth asking again for.

A full fleet reports thousands of times a second that it is still full. Asking the scheduler anew at
each of these would cost the more the fuller the fleet is.
"""

from collections.abc import Callable, Iterable

from llumnix.fleet.placement import PlacementRequest
from llumnix.instances.instance import Instance
from policies.types import DispatchRequest, InstanceLoad, RequestId

CouldStart = Callable[[DispatchRequest, Instance], bool]
"""Whether an instance, if it were the only one, would be given a request now."""


class HeldRequests:
    """What the scheduler was asked last and held back.

    A report can end that only if it shows less load than the one before, or confirms what was on
    its way, and the instance could then start one of them. Whatever else may end it (time, above
    all) is up to those who wait: they ask again now and then.
    """

    def __init__(self, could_start: CouldStart) -> None:
        self._could_start = could_start
        self._by_model: dict[str | None, dict[RequestId, DispatchRequest]] = {}
        self._model_of: dict[RequestId, str | None] = {}
        self._last: dict[Instance, InstanceLoad] = {}

    def hold(self, ask: PlacementRequest) -> None:
        """Note that a request was held back."""
        request = ask.request
        self.drop(request.request_id)
        self._model_of[request.request_id] = request.model
        self._by_model.setdefault(request.model, {})[request.request_id] = request

    def drop(self, request_id: RequestId) -> None:
        """Note that a request was placed, or waits no longer."""
        if request_id not in self._model_of:
            return
        model = self._model_of.pop(request_id)
        waiting = self._by_model[model]
        del waiting[request_id]
        if not waiting:
            del self._by_model[model]

    def forget(self, instance: Instance) -> None:
        """Forget an instance that is down, or has left."""
        self._last.pop(instance, None)

    def ended_by(self, instance: Instance, *, confirmed: bool) -> bool:
        """Return whether an instance's report may have made room for one of them.

        `confirmed`: it may have confirmed something that was on its way there.
        """
        load, before = instance.load, self._last.get(instance)
        if load is None:
            return False
        self._last[instance] = load
        if not self._by_model:
            return False
        if before is None:
            return True
        if not (confirmed or _lighter(load, before)):
            return False
        return any(self._could_start(each, instance) for each in self._for(instance))

    def _for(self, instance: Instance) -> Iterable[DispatchRequest]:
        for model in (None, *instance.group.models):
            yield from self._by_model.get(model, {}).values()


def _lighter(load: InstanceLoad, before: InstanceLoad) -> bool:
    """Return whether a load may leave more room than the one before: all else only fills up."""
    return (
        load.physical_tokens < before.physical_tokens
        or load.queued_demand_tokens < before.queued_demand_tokens
        or load.reserved_tokens < before.reserved_tokens
        or load.capacity_tokens != before.capacity_tokens
        or load.running != before.running
        or load.waiting != before.waiting
        or load.terminating < before.terminating
    )
