"""A real fleet in one process: its scheduler, its queue and its links, without sockets."""

import random
import time
from collections import deque
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet, PlacementRequest
from llumnix.fleet.requests import ActiveRequest
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceKind, MigrationOrder
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import DispatchRequest, InstanceId, RequestId
from scheduler_parts.engines import BATCH, PROMPT_TOKENS, Engine, Link

MODEL = "m"


@dataclass(slots=True)
class World:
    """The fleet, and the engines behind it. Orders wait in `orders` for their outcome."""

    fleet: Fleet
    engines: list[Engine]
    orders: deque[MigrationOrder]
    rng: random.Random
    numbered: int = 0

    def ask(self, tokens: int = PROMPT_TOKENS) -> PlacementRequest:
        """Make a request that has just arrived."""
        self.numbered += 1
        name = RequestId(f"request-{self.numbered:08d}")
        arrived_s = self.fleet.now_s()
        return PlacementRequest(DispatchRequest(name, 1, tokens, arrived_s, MODEL))

    def open(self, ask: PlacementRequest) -> ActiveRequest:
        """Enter a request in the fleet's table, as the frontend does."""
        request = ActiveRequest(ask.request.request_id, "normal", self.fleet.now_s())
        self.fleet.requests.open(request)
        return request

    def report_all(self, tokens: "list[int]") -> None:
        """Let every engine report, with so many tokens in use."""
        for engine, used in zip(self.engines, tokens, strict=True):
            engine.tokens = used
            engine.link.take(engine.report())

    def mixed(self) -> list[int]:
        """Draw loads: a tenth of the instances are nearly full, the others have room."""
        draw = self.rng.randrange
        return [
            draw(117_000, 119_500) if draw(10) == 0 else draw(50_000, 90_000) for _ in self.engines
        ]


def build(instances: int, batch: int = BATCH, mean_tokens: int = 600, seed: int = 1) -> World:
    """Build a fleet of so many instances, each of which runs a batch."""
    rng = random.Random(seed)
    scheduler = GlobalScheduler(SchedulerConfig())
    tally = Tally(FleetMetrics(CollectorRegistry()), ("high", "normal"))
    config = FleetConfig()
    fleet = Fleet(config, scheduler, b"secret", tally, FleetClock())
    world = World(fleet, [], deque(), rng)
    for number in range(instances):
        name = InstanceId(f"instance-{number}")
        instance = Instance.at(
            f"http://10.{number // 62500}.{number // 250 % 250}.{number % 250}:1"
        )
        fleet.instances.add(instance)
        identity = Identity(
            name, InstanceKind.PLUGGED, ({"id": MODEL},), engine="vllm", layout="x", protocol=2
        )
        link = Link(instance, identity, b"secret", config, fleet, fleet.now_s, 1)
        link.orders = world.orders
        instance.become(identity, link)
        engine = Engine(name, link, ending=rng.random())
        requests = [world.open(world.ask()) for _ in range(batch)]
        for request in requests:
            request.goes_to(name)
        engine.fill(requests, mean_tokens)
        world.engines.append(engine)
        link.take(engine.report())
    return world


def cpu_s() -> float:
    """Read this thread's CPU time, in seconds."""
    return time.thread_time()
