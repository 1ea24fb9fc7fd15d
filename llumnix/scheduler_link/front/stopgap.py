"""Where a request goes while there is no scheduler: to the instance with the fewest of ours."""

from collections.abc import Callable, Iterable

from llumnix.fleet.placement import PlacementRequest
from llumnix.instances.instance import Instance
from policies.types import InstanceId


def least_in_flight(
    ask: PlacementRequest, up: Iterable[Instance], count_at: Callable[[InstanceId], int]
) -> Instance | None:
    """Return the instance for a request; None if none that is up may have it.

    As ever, those that failed the request are taken only if there is no other. Among equals the
    first in the fleet's order, which frontends begin at different places.
    """
    able = [
        each
        for each in up
        if each.group.serves(ask.model) and each.id not in ask.barred and ask.fits(each)
    ]
    preferred = [each for each in able if each.id not in ask.avoided] or able
    return min(preferred, key=lambda each: count_at(each.id), default=None)
