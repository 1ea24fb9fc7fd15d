"""Migrations under way, and where those that ended went: what frontends ask to follow a stream."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llumnix.admin.schema import MigrationStatus
from llumnix.instances.instance import MigrationOrder
from migration.llumlet.fleet_messages import MigrationEvent
from policies.types import Explanation, InstanceId, MigrationId, RequestId

_REMEMBERED = 4096


@dataclass(slots=True)
class Migration:
    """One order to move a request, from when it was given. `started_s` is fleet time.

    The request is unknown until the source's llumlet has chosen it.
    """

    migration_id: MigrationId
    source: InstanceId
    destination: InstanceId
    reason: str
    started_s: float
    request_id: RequestId | None = None
    explanation: Explanation = field(default_factory=lambda: Explanation("manual"))

    def status(self) -> MigrationStatus:
        """Say what the admin API tells of it."""
        return MigrationStatus(
            migration_id=self.migration_id,
            request_id=self.request_id,
            source=self.source,
            destination=self.destination,
            started_s=round(self.started_s, 6),
            reason=self.reason,
        )


class MigrationBook:
    """Remembers every migration long enough for its stream to find its way."""

    def __init__(self) -> None:
        self._under_way: dict[MigrationId, Migration] = {}
        self._destinations: OrderedDict[MigrationId, InstanceId] = OrderedDict()
        self._of_request: OrderedDict[RequestId, MigrationId] = OrderedDict()

    def __iter__(self) -> Iterator[Migration]:
        return iter(list(self._under_way.values()))

    def begin(self, move: MigrationOrder, explanation: Explanation, now_s: float) -> Migration:
        """Enter an order that is about to be given."""
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
        self._remember_destination(migration.migration_id, migration.destination)
        return migration

    def started(self, event: MigrationEvent, now_s: float) -> Migration:
        """Note which request a llumlet moves; orders given by others are entered as well."""
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
            self._remember_destination(migration_id, migration.destination)
        migration.request_id = RequestId(event.request_id)
        _put(self._of_request, migration.request_id, migration_id)
        return migration

    def ended(self, migration_id: MigrationId, *, moved: bool) -> Migration | None:
        """Note the end; None when it is not known (any more).

        One that moved its request is still found by that request until `claimed`: its source may
        die before it has told the request's frontend.
        """
        migration = self._under_way.pop(migration_id, None)
        if migration is not None and migration.request_id is not None and not moved:
            self.claimed(migration.request_id, migration_id)
        return migration

    def destination_of(self, migration_id: MigrationId) -> InstanceId | None:
        """Say where a migration goes or went; None when it is not known (any more)."""
        return self._destinations.get(migration_id)

    def of_request(self, request_id: RequestId) -> MigrationId | None:
        """Find the migration that is moving, or has just moved, this request."""
        return self._of_request.get(request_id)

    def claimed(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that this migration no longer says where its request is."""
        if self._of_request.get(request_id) == migration_id:
            del self._of_request[request_id]

    def overdue(self, before_s: float) -> list[Migration]:
        """List migrations that began before then and have not ended."""
        return [each for each in self._under_way.values() if each.started_s < before_s]

    def of_instance(self, instance_id: InstanceId) -> list[Migration]:
        """List migrations under way from or to an instance."""
        return [
            each
            for each in self._under_way.values()
            if instance_id in (each.source, each.destination)
        ]

    def _remember_destination(self, migration_id: MigrationId, instance_id: InstanceId) -> None:
        _put(self._destinations, migration_id, instance_id)


def _put(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    """Keep the newest entries only."""
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
