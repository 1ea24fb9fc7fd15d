"""What the fleet needs of a scheduler, so that one can be recorded, replaced or remote."""

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

    Times are fleet seconds. It knows only what these calls tell it.
    """

    @property
    def config(self) -> SchedulerConfig:
        """Return the scheduler's configuration."""

    def reconfigure(self, config: SchedulerConfig) -> None:
        """Decide by other policies and thresholds from now on; raises PolicyError, ValueError."""

    def freeness(self, snapshot: FleetSnapshot) -> FloatColumn:
        """Compute every instance's freeness in decode steps."""

    def dispatch(
        self, request: DispatchRequest, snapshot: FleetSnapshot, now_s: float
    ) -> DispatchDecision:
        """Decide where a request goes."""

    def could_start(self, request: DispatchRequest, snapshot: FleetSnapshot) -> bool:
        """Return whether a request would not be held if these were all instances."""

    def sent(
        self, request_id: RequestId, instance_id: InstanceId, tokens: int, now_s: float
    ) -> None:
        """Count a request that others sent to an instance as on its way there."""

    def confirm(self, instance_id: InstanceId, request_ids: list[RequestId]) -> None:
        """Note that the instance's report has seen these requests."""

    def confirm_until(self, instance_id: InstanceId, at_s: float) -> None:
        """Note that a report that names no requests covers everything sent until then."""

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended, was cancelled, or will be dispatched again."""

    def rebalance(self, snapshot: FleetSnapshot, now_s: float) -> list[MigrateOrder]:
        """Order migrations; each counts as in progress until `order_ended`."""

    def order_started(self, order: MigrateOrder, now_s: float) -> None:
        """Count an order that was given manually as in progress."""

    def order_ended(
        self, source: InstanceId, destination: InstanceId, now_s: float, moved: bool
    ) -> None:
        """Note that an order was carried out, or failed."""

    def instance_gone(self, instance_id: InstanceId) -> None:
        """Forget everything about an instance that is gone."""
