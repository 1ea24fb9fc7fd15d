"""Engines that only report: what a thousand of them send, without a thousand of them.

An engine runs requests that grow by a token a step and end after some time. Its reports are the
bytes a llumlet would send, and go through the link's own decoder.
"""

from collections import deque
from dataclasses import dataclass, field

from llumnix.fleet.requests import ActiveRequest
from llumnix.instances.instance import MigrationOrder
from llumnix.instances.plugged import PluggedLink
from migration.llumlet import fleet_messages
from migration.llumlet.fleet_messages import Report, StepReport
from migration.protocol import wire
from policies.types import InstanceId, InstanceLoad, RequestId

CAPACITY_TOKENS = 120_000
PROMPT_TOKENS = 200
STEPS_PER_S = 20
BATCH = 100
SECONDS = 100.0
"""How long a request runs: one ends each second, where a batch is 100."""


class Link(PluggedLink):
    """A llumlet's link without a connection: bytes come from an engine, orders go to it."""

    orders: "deque[MigrationOrder]"

    async def migrate_out(self, move: MigrationOrder) -> None:
        """Keep the order, whose outcome the engines report."""
        self.orders.append(move)

    def take(self, data: bytes) -> None:
        """Take in a report as it came over the wire."""
        report = fleet_messages.decode(wire.unpack(data))
        assert isinstance(report, Report)
        self._on_report(report)


@dataclass(slots=True)
class Engine:
    """One instance's side: its batch, as sums, and who is in it, oldest first."""

    instance_id: InstanceId
    link: Link
    ending: float = 0.0
    tokens: int = 0
    steps: int = 0
    running: deque[ActiveRequest] = field(default_factory=deque)
    new: list[RequestId] = field(default_factory=list)

    def fill(self, requests: list[ActiveRequest], mean_tokens: int) -> None:
        """Begin with a batch."""
        self.running.extend(requests)
        self.tokens = mean_tokens * len(requests)

    def take_in(self, request: ActiveRequest) -> None:
        """Start a request that was sent here."""
        self.running.append(request)
        self.new.append(request.request_id)
        self.tokens += PROMPT_TOKENS

    def go_on(self, interval_s: float) -> list[ActiveRequest]:
        """Decode for so long; return the requests that have ended."""
        made = round(STEPS_PER_S * interval_s)
        self.steps += made
        ended = []
        self.ending += len(self.running) / SECONDS * interval_s
        while self.running and self.ending >= 1:
            self.ending -= 1
            ended.append(self.running.popleft())
            self.tokens -= min(self.tokens, PROMPT_TOKENS + round(STEPS_PER_S * SECONDS))
        self.tokens = min(CAPACITY_TOKENS, self.tokens + made * len(self.running))
        return ended

    def report(self) -> bytes:
        """Return the bytes of a report."""
        self.steps += 1
        told = StepReport(self.load(), tuple(self.new), self.steps)
        self.new.clear()
        return wire.pack(fleet_messages.encode(told))

    def load(self) -> InstanceLoad:
        """Return what it would report."""
        urgent = len(self.running) // 10
        return InstanceLoad(
            self.instance_id,
            CAPACITY_TOKENS,
            self.tokens,
            0,
            0,
            (urgent, len(self.running) - urgent),
            (0, 0),
        )
