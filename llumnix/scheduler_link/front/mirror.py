"""A frontend's copy of the instance table, as the scheduler tells it."""

from collections.abc import Iterable

from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable
from llumnix.scheduler_link.records import Record, endpoint_of, update


class Mirror:
    """Keeps a table in line with what is told. An instance stays the same object as it changes."""

    def __init__(self, instances: InstanceTable) -> None:
        self._instances = instances
        self._by_url: dict[str, Instance] = {}

    def replace(self, records: Iterable[Record]) -> None:
        """Take these to be all instances that there are."""
        told = list(records)
        self.change(told, self._by_url.keys() - {each["url"] for each in told})

    def change(self, records: Iterable[Record], gone: Iterable[str]) -> None:
        """Take over the records of instances that changed or are new; others have left."""
        for url in list(gone):
            instance = self._by_url.pop(url, None)
            if instance is not None:
                instance.lose()
                self._instances.remove(instance)
        for each in records:
            known = self._by_url.get(each["url"])
            if known is None:
                known = self._by_url[each["url"]] = Instance.behind(endpoint_of(each))
                self._instances.add(known)
            else:
                known.endpoint = endpoint_of(each)
            update(known, each)

    def moved(self, moved_at_s: dict[str, float]) -> None:
        """Note when instances, by URL, were last seen to work."""
        for url, at_s in moved_at_s.items():
            instance = self._by_url.get(url)
            if instance is not None:
                instance.fitness.moved_at_s = at_s
