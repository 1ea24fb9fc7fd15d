"""Migrations in progress, and where finished ones went: how frontends follow a stream."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llumnix.admin.schema import MigrationStatus
from llumnix.fleet.migrations.destinations import Destinations
from llumnix.instances.instance import MigrationOrder
from migration.llumlet.fleet_messages import MigrationEvent
from policies.types import Explanation, InstanceId, MigrationId, RequestId


@dataclass(slots=True)
class Migration:
    """One migration, from when it was ordered. `started_s` is fleet time.

    The request is unknown until the source's llumlet has chosen one.
    """

    migration_id: MigrationId
    source: InstanceId
    destination: InstanceId
    reason: str
    started_s: float
    request_id: RequestId | None = None
    explanation: Explanation = field(default_factory=lambda: Explanation("manual"))

    def status(self) -> MigrationStatus:
        """Return this as the admin API reports it."""
        return MigrationStatus(
            migration_id=self.migration_id,
            request_id=self.request_id,
            source=self.source,
            destination=self.destination,
            started_s=round(self.started_s, 6),
            reason=self.reason,
        )


class MigrationBook:
    """Remembers every migration long enough for its stream to follow it."""

    def __init__(self) -> None:
        self._under_way: dict[MigrationId, Migration] = {}
        self.destinations = Destinations()

    def __iter__(self) -> Iterator[Migration]:
        return iter(list(self._under_way.values()))

    def begin(self, move: MigrationOrder, explanation: Explanation, now_s: float) -> Migration:
        """Record an order that is about to be sent."""
        migration = Migration(
            move.migration_id,
            move.source,
            move.destination.id,
            move.reason,
            now_s,
            move.request_id,
            explanation,
        )
        self._under_way[migration.migration_id] = migration
        self.destinations.ordered(migration.migration_id, migration.destination)
        return migration

    def started(self, event: MigrationEvent, now_s: float) -> Migration:
        """Record which request a llumlet migrates, also for orders that others gave."""
        migration_id = MigrationId(event.migration_id)
        migration = self._under_way.get(migration_id)
        if migration is None:
            migration = self._under_way[migration_id] = Migration(
                migration_id,
                InstanceId(event.source),
                InstanceId(event.destination),
                event.reason,
                now_s,
            )
            self.destinations.ordered(migration_id, migration.destination)
        migration.request_id = RequestId(event.request_id)
        self.destinations.started(migration.request_id, migration_id)
        return migration

    def ended(self, migration_id: MigrationId, *, moved: bool) -> Migration | None:
        """Record the end of a migration; None if it is not known (any more).

        A migration that moved its request can still be looked up by that request until `claimed`:
        the source may die before it has told the request's frontend.
        """
        migration = self._under_way.pop(migration_id, None)
        if migration is not None and migration.request_id is not None and not moved:
            self.claimed(migration.request_id, migration_id)
        return migration

    def destination_of(self, migration_id: MigrationId) -> InstanceId | None:
        """Return the destination of a migration; None if it is not known (any more)."""
        return self.destinations.destination_of(migration_id)

    def of_request(self, request_id: RequestId) -> MigrationId | None:
        """Return the migration that is moving, or has just moved, this request."""
        return self.destinations.of_request(request_id)

    def claimed(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that the request has been claimed: this migration no longer locates it."""
        self.destinations.over(request_id, migration_id)

    def overdue(self, before_s: float) -> list[Migration]:
        """Return migrations that began before this time and have not ended."""
        return [each for each in self._under_way.values() if each.started_s < before_s]

    def of_instance(self, instance_id: InstanceId) -> list[Migration]:
        """Return migrations in progress from or to an instance."""
        return [
            each
            for each in self._under_way.values()
            if instance_id in (each.source, each.destination)
        ]
