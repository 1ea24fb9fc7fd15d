"""Links between instances: bytes take time, and concurrent senders share the bandwidth.

Every instance has one port, of equal speed in both directions. A flow gets its fair share of the
busier of its two ports; whenever a flow begins or ends, the others' speeds are recomputed. All
arithmetic is in integers (billionths of a byte), so nothing is lost when a flow is cut in pieces.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from policies.types import InstanceId
from simulator.events import NS_PER_S, Event, EventQueue, Priority


@dataclass(slots=True, eq=False)
class Flow:
    """Bytes on their way. `left` is in billionths of a byte, `bytes_per_s` its present speed."""

    source: InstanceId
    destination: InstanceId
    left: int
    arrived: Callable[[], None]
    bytes_per_s: int = 0
    since_ns: int = 0
    event: Event | None = None


class Network:
    """All flows of a fleet. `latency_ns` is the delay of any message, however small."""

    def __init__(self, events: EventQueue, bytes_per_s: int, latency_ns: int) -> None:
        if bytes_per_s < 1 or latency_ns < 0:
            raise ValueError("a link needs a speed of at least 1 byte/s and a latency of 0 or more")
        self._events = events
        self._bytes_per_s = bytes_per_s
        self._latency_ns = latency_ns
        self._flows: list[Flow] = []

    def post(self, deliver: Callable[[], None]) -> None:
        """Deliver a message, too small to share bandwidth."""
        self._events.after(self._latency_ns, Priority.NETWORK, deliver)

    def send(
        self,
        source: InstanceId,
        destination: InstanceId,
        n_bytes: int,
        arrived: Callable[[], None],
    ) -> Flow:
        """Send bytes; `arrived` is called when the last one is there."""
        flow = Flow(source, destination, n_bytes * NS_PER_S, arrived, 0, self._events.now_ns)
        self._flows.append(flow)
        self._share()
        return flow

    def cut(self, flow: Flow) -> None:
        """Stop sending a flow; one that has arrived is left alone."""
        if flow in self._flows:
            self._drop(flow)
            self._share()

    def _drop(self, flow: Flow) -> None:
        self._flows.remove(flow)
        if flow.event is not None:
            flow.event.cancel()

    def _share(self) -> None:
        """Give every flow its fair share; those whose speed changes get a new end."""
        out = Counter(flow.source for flow in self._flows)
        into = Counter(flow.destination for flow in self._flows)
        now_ns = self._events.now_ns
        for flow in self._flows:
            sharers = max(out[flow.source], into[flow.destination])
            bytes_per_s = max(1, self._bytes_per_s // sharers)
            if bytes_per_s == flow.bytes_per_s:
                continue
            flow.left -= flow.bytes_per_s * (now_ns - flow.since_ns)
            flow.bytes_per_s, flow.since_ns = bytes_per_s, now_ns
            if flow.event is not None:
                flow.event.cancel()
            takes_ns = max(0, -(-flow.left // bytes_per_s))
            flow.event = self._events.after(
                takes_ns + self._latency_ns, Priority.NETWORK, partial(self._ends, flow)
            )

    def _ends(self, flow: Flow) -> None:
        flow.event = None
        self._drop(flow)
        self._share()
        flow.arrived()
