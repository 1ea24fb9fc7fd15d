"""The queue discipline in policies/README.md works as printed, on every clock."""

import asyncio
import dataclasses
import re
from pathlib import Path

import pytest

import policies
from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.queue import HoldQueue
from llumnix.instances.instance import Instance
from migration.config import MigrationConfig
from policies.queue import queue_disciplines
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import DispatchRequest, Explanation, Hold, Reject, RequestId
from simulator.fleet.fleet import SimulatedFleet
from simulator.kernel.fleet import FastFleet
from simulator.workload.request import TraceRequest
from tests.simulator.simulated import SMALL

README = Path(policies.__file__).parent / "README.md"
SHORTEST = PolicySpec("shortest-prompt-first")
PROMPTS = [700, 900, 300, 800, 100, 600, 500, 200, 400]


@pytest.fixture(autouse=True)
def discipline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register it by the README's own lines, and forget it afterwards."""
    monkeypatch.setattr(queue_disciplines, "_entries", dict(queue_disciplines._entries))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "queue_disciplines" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    exec(example, {"__name__": __name__})


async def test_it_acts_in_the_live_frontend() -> None:
    open_now, placed = False, []

    def place(ask: PlacementRequest) -> Instance | Hold | Reject:
        if not open_now:
            return Hold(Explanation("test"))
        placed.append(ask.request.prompt_tokens)
        return Instance.at("http://somewhere")

    queue = HoldQueue(place, SHORTEST, limit=100, timeout_s=30.0, retry_after_s=1.0)
    waiting = [
        asyncio.ensure_future(
            queue.place(PlacementRequest(DispatchRequest(RequestId(f"{n}"), 0, tokens, float(n))))
        )
        for n, tokens in enumerate(PROMPTS)
    ]
    await asyncio.sleep(0)  # each has begun to wait
    assert len(queue) == len(PROMPTS)
    open_now = True
    queue.retry()
    await asyncio.gather(*waiting)

    assert placed == sorted(PROMPTS)


def dispatched(kernel: str, discipline: PolicySpec) -> list[int]:
    """Serve a burst on one instance that holds one long request; say in which order."""
    one = dataclasses.replace(SMALL, instances=1, capacity_tokens=1008, max_num_seqs=1)
    long = TraceRequest(0, 0.0, 900, 60)
    burst = [TraceRequest(n + 1, 0.002 + n / 1e6, tokens, 5) for n, tokens in enumerate(PROMPTS)]
    scheduler = SchedulerConfig(queue=discipline, migration=False)
    fleet = (
        SimulatedFleet(one, scheduler, MigrationConfig())
        if kernel == "steps"
        else FastFleet(
            one, scheduler, MigrationConfig(), compile_it=False, ask_door=kernel == "asking"
        )
    )
    lives = fleet.run([long, *burst])
    assert all(life.finished for life in lives)
    later = sorted(lives[1:], key=lambda life: (life.dispatched_ns, life.admitted_ns))
    return [life.request.prompt_tokens for life in later]


@pytest.mark.parametrize("kernel", ["steps", "lined up", "asking"])
def test_it_acts_in_virtual_time(kernel: str) -> None:
    assert dispatched(kernel, SHORTEST) == sorted(PROMPTS)
    assert dispatched(kernel, PolicySpec("class-then-arrival")) == PROMPTS
