"""The waiting requests of an engine: one FIFO queue per class, most urgent class first."""

from collections import OrderedDict
from collections.abc import Iterator

from policies.types import RequestId
from simulator.engine.batch import EngineRequest


class WaitingLine:
    """Requests waiting to be admitted. Every operation costs O(1), or O(classes)."""

    def __init__(self, classes: int) -> None:
        self._queues: list[OrderedDict[RequestId, EngineRequest]] = [
            OrderedDict() for _ in range(classes)
        ]

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def __iter__(self) -> Iterator[EngineRequest]:
        for queue in self._queues:
            yield from queue.values()

    def counts(self) -> tuple[int, ...]:
        """The number waiting in each class."""
        return tuple(len(queue) for queue in self._queues)

    def head(self) -> EngineRequest | None:
        """The request to be admitted next."""
        return next(iter(self), None)

    def push(self, request: EngineRequest) -> None:
        """Queue a request behind all others of its class."""
        self._queues[request.class_index][request.request_id] = request

    def push_front(self, request: EngineRequest) -> None:
        """Queue a preempted request before all others of its class."""
        self.push(request)
        self._queues[request.class_index].move_to_end(request.request_id, last=False)

    def remove(self, request: EngineRequest) -> None:
        """Remove a request; raises KeyError when it does not wait."""
        del self._queues[request.class_index][request.request_id]
