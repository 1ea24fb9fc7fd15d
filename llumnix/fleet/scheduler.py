"""What the fleet needs of a scheduler: it may be recorded, replaced, or live somewhere else."""

from typing import Protocol

from policies.scheduler import SchedulerConfig
from policies.types import (
    DispatchDecision,
    DispatchRequest,
    FleetSnapshot,
    FloatColumn,
    InstanceId,
    MigrateOrder,
    RequestId,
)


class FleetScheduler(Protocol):
    """Decides for a fleet; `policies.scheduler.GlobalScheduler` is one.

    Times are fleet seconds. What it knows is what it was told by these calls.
    """

    @property
    def config(self) -> SchedulerConfig:
        """Return how the fleet is scheduled."""

    def freeness(self, snapshot: FleetSnapshot) -> FloatColumn:
        """Compute every instance's freeness in decode steps."""

    def dispatch(
        self, request: DispatchRequest, snapshot: FleetSnapshot, now_s: float
    ) -> DispatchDecision:
        """Decide where a request goes."""

    def confirm(self, instance_id: InstanceId, request_ids: list[RequestId]) -> None:
        """Note that the instance's report has seen these requests."""

    def confirm_until(self, instance_id: InstanceId, at_s: float) -> None:
        """Note that a report which names no requests has seen all that was sent until then."""

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended, was cancelled, or will be dispatched anew."""

    def rebalance(self, snapshot: FleetSnapshot, now_s: float) -> list[MigrateOrder]:
        """Order migrations; each counts as under way until `order_ended`."""

    def order_started(self, order: MigrateOrder, now_s: float) -> None:
        """Count an order that somebody else gave, by hand, as under way."""

    def order_ended(
        self, source: InstanceId, destination: InstanceId, now_s: float, moved: bool
    ) -> None:
        """Note that an order was carried out, or came to nothing."""

    def instance_gone(self, instance_id: InstanceId) -> None:
        """Forget all that concerns an instance that is gone."""
