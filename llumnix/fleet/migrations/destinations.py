"""Where migrations take requests, as far as the scheduler has said: how redirects are followed."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from policies.types import InstanceId, MigrationId, RequestId

_REMEMBERED = 4096


class Destinations:
    """Remembers every migration's destination, and which migration has a request.

    `told` is called with every migration that is noted.
    """

    def __init__(self) -> None:
        self.told: Callable[[MigrationId, InstanceId], None] | None = None
        self._destinations: OrderedDict[MigrationId, InstanceId] = OrderedDict()
        self._of_request: OrderedDict[RequestId, MigrationId] = OrderedDict()

    def ordered(self, migration_id: MigrationId, destination: InstanceId) -> None:
        """Note a migration."""
        _put(self._destinations, migration_id, destination)
        if self.told is not None:
            self.told(migration_id, destination)

    def all(self) -> dict[MigrationId, InstanceId]:
        """Return all that are remembered, by migration."""
        return dict(self._destinations)

    def learn(self, destinations: Mapping[str, str]) -> None:
        """Note the migrations that a scheduler knows of."""
        for migration_id, destination in destinations.items():
            self.ordered(MigrationId(migration_id), InstanceId(destination))

    def started(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note which request a migration moves."""
        _put(self._of_request, request_id, migration_id)

    def over(self, request_id: RequestId, migration_id: MigrationId) -> None:
        """Note that a migration no longer locates its request: it failed, or was claimed."""
        if self._of_request.get(request_id) == migration_id:
            del self._of_request[request_id]

    def of_request(self, request_id: RequestId) -> MigrationId | None:
        """Return the migration that is moving, or has just moved, this request."""
        return self._of_request.get(request_id)

    def destination_of(self, migration_id: MigrationId) -> InstanceId | None:
        """Return the destination of a migration; None if it is not known (any more)."""
        return self._destinations.get(migration_id)


def _put(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
