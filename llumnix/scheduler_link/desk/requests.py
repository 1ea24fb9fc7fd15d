"""The requests of frontends in other processes, as the fleet's table has them."""

from collections.abc import Awaitable, Callable
from typing import Any

from llumnix.fleet.account import Account
from llumnix.fleet.requests import ActiveRequest, ActiveState, RequestTable
from llumnix.instances.instance import Instance
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import Kind
from policies.types import InstanceId, MigrationId, RequestId


class FarFollower:
    """Passes on to a frontend what becomes of its request; see `llumnix.fleet.requests.Follower`.

    `able` are the instances that the frontend said the request can be handed over to.
    """

    __slots__ = ("_destination", "_hand_over", "_post", "_request_id", "able")

    def __init__(
        self,
        request_id: RequestId,
        post: Callable[[Message], None],
        destination: Callable[[MigrationId], InstanceId | None],
        hand_over: Callable[[RequestId, InstanceId], Awaitable[bool]],
    ) -> None:
        self.able: frozenset[str] = frozenset()
        self._request_id = request_id
        self._post = post
        self._destination = destination
        self._hand_over = hand_over

    def started(self, migration_id: MigrationId, source: InstanceId) -> None:
        """See Follower."""
        to = self._destination(migration_id)
        if to is not None:
            self._post([Kind.MIGRATING, self._request_id, migration_id, source, to])

    def ended(self, migration_id: MigrationId) -> None:
        """See Follower."""
        self._post([Kind.STAYS, self._request_id, migration_id])

    def can_be_handed_to(self, target: Instance) -> bool:
        """See Follower."""
        return target.id in self.able

    async def hand_over(self, target: Instance) -> bool:
        """See Follower."""
        return await self._hand_over(self._request_id, target.id)


class DeskRequestTable(RequestTable):
    """The requests of all frontends; when streams flowed, each frontend says by instance."""

    def __init__(self) -> None:
        super().__init__()
        self.flowed: dict[str, dict[str, float]] = {}
        self.tokens: dict[str, int] = {}

    def flowed_at_s(self, instance_id: InstanceId) -> float:
        """Return when a stream of an instance last brought something, in wall seconds; 0: never."""
        return max((each.get(instance_id, 0.0) for each in self.flowed.values()), default=0.0)

    def admit(
        self,
        told: list[Any],
        follower: FarFollower,
        cut: Callable[[], None],
    ) -> ActiveRequest | None:
        """Add a request as a frontend tells it; None if another one has its id."""
        request_id, class_name, since_s, immovable = told
        if request_id in self.active:
            return None
        active = ActiveRequest(
            RequestId(request_id),
            class_name,
            float(since_s),
            tokens=lambda: self.tokens.get(request_id, 0),
            cut=cut,
            follower=follower,
            account=Account(request_id=request_id, class_name=class_name),
            immovable=immovable,
        )
        self.open(active)
        return active


def note_state(active: ActiveRequest, told: list[Any]) -> None:
    """Bring a request in line with what its frontend says of it."""
    state, instance_id, placed_at_s, flows_since_s = told
    active.state = ActiveState(state)
    if instance_id is None:
        active.instance_id = None
    elif active.instance_id != instance_id or placed_at_s > active.placed_at_s:
        active.goes_to(InstanceId(instance_id))
        active.placed_at_s = placed_at_s
    active.flows_since_s = flows_since_s
