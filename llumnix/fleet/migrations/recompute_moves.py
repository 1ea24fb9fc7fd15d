"""Move streams off servers without the plugin: with no llumlet there, frontends do it."""

import asyncio
import secrets
from collections.abc import Callable

from llumnix.fleet.migrations.book import Migration, MigrationBook
from llumnix.fleet.requests import ActiveRequest, RequestTable
from llumnix.instances.instance import Instance, MigrationOrder
from llumnix.instances.table import InstanceTable
from policies.types import Explanation, MigrateReason, MigrationId, RequestId

_AT_A_TIME = 4
"""Streams moved at a time when a server is drained: each costs a prefill elsewhere."""


class RecomputeMoves:
    """Orders streams to resume elsewhere, and records the outcome in the book.

    `begun` and `ended` are called for each.
    """

    def __init__(
        self,
        book: MigrationBook,
        instances: InstanceTable,
        requests: RequestTable,
        now_s: Callable[[], float],
        begun: Callable[[Migration], None],
        ended: Callable[[Migration, bool], None],
    ) -> None:
        self._book = book
        self._instances = instances
        self._requests = requests
        self._now_s = now_s
        self._begun = begun
        self._ended = ended
        self._under_way: dict[RequestId, asyncio.Task[None]] = {}
        self._failed: set[RequestId] = set()

    def order(
        self,
        origin: Instance,
        target: Instance,
        request_id: RequestId | None,
        reason: str,
    ) -> Migration | None:
        """Move a stream (or the first that can be moved); None if there is none."""
        for active in self._requests.at(origin.id):
            if request_id in (None, active.request_id) and self._can(active, target):
                return self._start(active, origin, target, reason)
        return None

    def empty(self, freest_but: Callable[[Instance], Instance | None]) -> None:
        """Continue to empty the servers being drained; each stream is tried once."""
        self._failed &= self._requests.active.keys()
        for origin in self._instances:
            if origin.plugged or not origin.draining or not origin.alive:
                continue
            target = freest_but(origin)
            for active in self._requests.at(origin.id) if target is not None else ():
                if len(self._under_way) >= _AT_A_TIME:
                    return
                assert target is not None, "looked at above"
                if active.request_id not in self._failed and self._can(active, target):
                    self._start(active, origin, target, MigrateReason.DRAIN)

    def close(self) -> None:
        """Order no more moves: the streams stay where they are."""
        for task in self._under_way.values():
            task.cancel()

    def _can(self, active: ActiveRequest, target: Instance) -> bool:
        free = active.request_id not in self._under_way
        return free and active.follower.can_be_handed_to(target)

    def _start(
        self, active: ActiveRequest, origin: Instance, target: Instance, reason: str
    ) -> Migration:
        move = MigrationOrder(
            MigrationId(secrets.token_hex(8)), origin.id, target, active.request_id, 0, reason
        )
        migration = self._book.begin(move, Explanation(str(reason)), self._now_s())
        self._begun(migration)
        task = asyncio.create_task(self._carry_out(active, migration, target))
        self._under_way[active.request_id] = task
        return migration

    async def _carry_out(
        self, active: ActiveRequest, migration: Migration, target: Instance
    ) -> None:
        moved = False
        try:
            moved = await active.follower.hand_over(target)
        finally:
            del self._under_way[active.request_id]
            if not moved:
                self._failed.add(active.request_id)
            if self._book.ended(migration.migration_id, moved=False) is not None:
                self._ended(migration, moved)
