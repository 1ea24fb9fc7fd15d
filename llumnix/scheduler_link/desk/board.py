"""What frontends are told of the instances: all of it once, then what has changed."""

from llumnix.instances.table import InstanceTable
from llumnix.scheduler_link.records import Record, fingerprint, record


class Board:
    """Remembers what was told of each instance, by its URL."""

    def __init__(self, instances: InstanceTable) -> None:
        self._instances = instances
        self._told: dict[str, tuple[object, ...]] = {}
        self._revision = -1

    def whole(self) -> list[Record]:
        """Return the records of all instances, as far as `changes` has looked."""
        return [record(each) for each in self._instances]

    def changes(self, *, look: bool = False) -> tuple[list[Record], list[str]]:
        """Return the records of instances that changed since the last time, and who left.

        `look` at all of them: keys and TLS settings change without a sign.
        """
        if not look and self._revision == self._instances.revision:
            return [], []
        self._revision = self._instances.revision
        seen = {each.url: (each, fingerprint(each)) for each in self._instances}
        changed = [record(seen[url][0]) for url in seen if self._told.get(url) != seen[url][1]]
        gone = [url for url in self._told if url not in seen]
        self._told = {url: mark for url, (_, mark) in seen.items()}
        return changed, gone
