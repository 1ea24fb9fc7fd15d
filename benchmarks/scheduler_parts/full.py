"""A full fleet in real time: everybody reports, many are held, some end, some are placed.

All that one scheduler does is done here for real, in one thread. What the engines' side of it
costs is measured as well, and taken off.
"""

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass

from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.queue import HoldQueue
from llumnix.instances.instance import Instance
from policies.types import Hold, Reject
from scheduler_parts.decisions import Cost, end_orders
from scheduler_parts.engines import BATCH, SECONDS
from scheduler_parts.fleet import World, build, cpu_s

REPORTS_PER_S = 10.0
TICK_S = 0.005
REBALANCE_S = 0.25
FULL_TOKENS = 1_170
OVERLOAD = 0.1


@dataclass(frozen=True, slots=True)
class Full:
    """What a full fleet costs. `cores` is the scheduling's CPU time per second.

    `idle_cores` is what this benchmark's own clockwork takes, which is not in `cores`.
    `lag_p99_ms` is how late the event loop was, on this machine, with whatever else ran there;
    `longest_collection_ms` what the garbage collector took at once.
    """

    cores: float
    idle_cores: float
    reports_per_s: float
    dispatch: Cost
    dispatches_per_s: float
    placed_per_s: float
    held: float
    rebalance: Cost
    lag_p99_ms: float
    behind_s: float
    refused: int
    longest_collection_ms: float


class Run:
    """One run. Times are seconds: of the wall, but for what is said to be CPU time."""

    def __init__(self, instances: int, held: int) -> None:
        self.world: World = build(instances, BATCH, FULL_TOKENS)
        self.held = held
        self.queue = HoldQueue(
            self._place, self.world.fleet.scheduler.config.queue, held, 600.0, 1.0
        )
        self.world.fleet.changed = self.queue.retry
        self.engine_of = {each.instance_id: each for each in self.world.engines}
        self.counts: Counter[str] = Counter()
        self.dispatches: list[float] = []
        self.passes: list[float] = []
        self.lags: list[float] = []
        self.lengths: list[int] = []
        self.reports, self.behind_s, self.too_many = 0, 0.0, 0.0
        self.others_s = self.longest_collection_s = self.collection_began = 0.0
        self.clients: set[asyncio.Task[None]] = set()

    def _place(self, ask: PlacementRequest) -> Instance | Hold | Reject:
        began = cpu_s()
        answer = self.world.fleet.dispatch(ask)
        self.dispatches.append(cpu_s() - began)
        return answer

    async def client(self) -> None:
        """One request, from its arrival until an engine has it."""
        ask = self.world.ask()
        request = self.world.open(ask)
        placed = await self.queue.place(ask)
        if isinstance(placed, Instance):
            self.counts["placed"] += 1
            request.goes_to(placed.id)
            self.engine_of[placed.id].take_in(request)
        else:
            self.counts["refused"] += 1
            self._ended(request.request_id)

    def _ended(self, request_id: str) -> None:
        """Do what the frontend does when a request has ended."""
        fleet = self.world.fleet
        fleet.requests.close(request_id)  # type: ignore[arg-type]
        fleet.forget(request_id)  # type: ignore[arg-type]
        self.queue.retry()

    def arrive(self, count: int) -> None:
        """Let clients arrive."""
        for _ in range(count):
            task = asyncio.create_task(self.client())
            self.clients.add(task)
            task.add_done_callback(self.clients.discard)

    def report(self, due: int, first: int) -> None:
        """Let so many engines report, beginning with one; what they do themselves is not ours."""
        engines = self.world.engines
        for number in range(first, first + due):
            engine = engines[number % len(engines)]
            began = cpu_s()
            ended = engine.go_on(1 / REPORTS_PER_S)
            data = engine.report()
            self.others_s += cpu_s() - began
            engine.link.take(data)
            for request in ended:
                self._ended(request.request_id)
        # A tenth more come than can be served: the queue is full, and turns these away.
        self.too_many += OVERLOAD * due / REPORTS_PER_S * BATCH / SECONDS
        more, self.too_many = divmod(self.too_many, 1.0)
        self.arrive(max(0, self.held - len(self.queue)) + int(more))

    async def rebalance(self) -> None:
        """Rebalance at intervals; what was ordered has moved when the next pass begins."""
        while True:
            await asyncio.sleep(REBALANCE_S)
            end_orders(self.world)
            began = cpu_s()
            await self.world.fleet.mover.round()
            self.passes.append(cpu_s() - began)

    async def idle(self, seconds: float) -> float:
        """Return the cores that our own clockwork takes while nobody reports or arrives."""
        loop, began_cpu = asyncio.get_running_loop(), cpu_s()
        began = loop.time()
        while loop.time() - began < seconds:
            self.report(0, 0)
            await asyncio.sleep(TICK_S)
        return (cpu_s() - began_cpu) / (loop.time() - began)

    async def go_on(self, seconds: float) -> None:
        """Let everybody report and arrive for so long, in real time."""
        loop, size = asyncio.get_running_loop(), len(self.world.engines)
        began, reports = loop.time(), 0
        while (passed := loop.time() - began) < seconds:
            # A scheduler that cannot keep up falls behind: all it can do at once is a round.
            due = min(round(passed * REPORTS_PER_S * size) - reports, size)
            self.report(due, reports)
            reports += due
            self.lengths.append(len(self.queue))
            at = loop.time()
            await asyncio.sleep(TICK_S)
            self.lags.append(max(0.0, loop.time() - at - TICK_S))
        self.reports = reports
        self.behind_s = seconds - reports / REPORTS_PER_S / size

    def forget(self) -> None:
        """Begin to count anew."""
        for each in (self.dispatches, self.passes, self.lags, self.lengths, self.counts):
            each.clear()
        self.others_s = self.longest_collection_s = 0.0

    def collecting(self, phase: str, _: dict[str, int]) -> None:
        """Note how long the garbage collector takes."""
        if phase == "start":
            self.collection_began = cpu_s()
        else:
            took = cpu_s() - self.collection_began
            self.longest_collection_s = max(self.longest_collection_s, took)

    async def run(self, seconds: float, warm_up_s: float) -> Full:
        """Fill the queue, go on until placements keep pace with ends, then measure for so long."""
        held, self.held = self.held, 0
        idle = await self.idle(1.0)
        self.held = held
        self.arrive(self.held)
        moving = asyncio.create_task(self.rebalance())
        await self.go_on(warm_up_s)
        self.forget()
        began, began_cpu = asyncio.get_running_loop().time(), cpu_s()
        await self.go_on(seconds)
        took = asyncio.get_running_loop().time() - began
        cores = (cpu_s() - began_cpu - self.others_s) / took - idle
        moving.cancel()
        for task in list(self.clients):
            task.cancel()
        await asyncio.gather(moving, *self.clients, return_exceptions=True)
        return Full(
            round(cores, 4),
            round(idle, 4),
            round(self.reports / took, 1),
            Cost.of(self.dispatches or [0.0]),
            round(len(self.dispatches) / took, 1),
            round(self.counts["placed"] / took, 1),
            round(sum(self.lengths) / len(self.lengths), 1),
            Cost.of(self.passes or [0.0]),
            round(Cost.of(self.lags).p99_us / 1e3, 2),
            round(self.behind_s, 3),
            self.counts["refused"],
            round(self.longest_collection_s * 1e3, 1),
        )


def measure(instances: int, held: int, seconds: float, warm_up_s: float) -> Full:
    """Run a full fleet for so long."""
    run = Run(instances, held)
    gc.callbacks.append(run.collecting)
    try:
        return asyncio.run(run.run(seconds, warm_up_s))
    finally:
        gc.callbacks.remove(run.collecting)
