"""Where the responses are that a server has stored: a later request may refer to one by its id."""

from collections import OrderedDict

from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable
from policies.types import InstanceId


class StoredResponses:
    """Remembers which instance holds a response; the oldest are forgotten beyond `limit`."""

    def __init__(self, instances: InstanceTable, limit: int) -> None:
        self._instances = instances
        self._limit = limit
        self._homes: OrderedDict[str, InstanceId] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._homes

    def learn(self, response_id: str | None, instance: Instance) -> None:
        """Note that an instance has given a response this id."""
        if response_id is None:
            return
        self._homes[response_id] = instance.id
        self._homes.move_to_end(response_id)
        while len(self._homes) > self._limit:
            self._homes.popitem(last=False)

    def home(self, response_id: str | None) -> Instance | None:
        """Return the instance that holds a response; None if that is not known, or it is down."""
        if response_id is None or response_id not in self._homes:
            return None
        instance = self._instances.get(self._homes[response_id])
        return instance if instance is not None and instance.alive else None
