"""One brain, two clocks: what a live fleet decided is decided alike from its snapshots alone."""

import asyncio
import signal
from collections import Counter
from dataclasses import replace
from typing import cast

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from llumnix.fleet.scheduler import FleetScheduler
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.service import Service
from policies.moves.config import RebalanceConfig
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig
from tests.llumnix.fleet.recorded_decisions import Call, Recorder, replayed
from tests.llumnix.fleet.whole_fleet import Answer, Client, ask, runs_something
from tests.llumnix.frontend.stage import until

SEED = 5
REQUESTS = 60
PATIENCE_S = 600.0  # a busy machine's reports come late, and count all the same
SCHEDULER = SchedulerConfig(
    rebalance=RebalanceConfig(
        low_steps=32.0, high_steps=64.0, hysteresis_steps=8.0, max_age_s=PATIENCE_S
    ),
    max_age_s=PATIENCE_S,
)
SMALL_ENGINES = ("--capacity-tokens=2048", "--max-model-len=2048", "--set=migration.cooldown_s=0")


async def recorded_run(scheduler: SchedulerConfig) -> list[Call]:
    """Serve more than fits on three emulated instances, drain one and kill another meanwhile."""
    recorders: list[Recorder] = []

    def recorded(config: SchedulerConfig, seed: int) -> FleetScheduler:
        recorders.append(Recorder(GlobalScheduler(config, seed)))
        return cast("FleetScheduler", recorders[-1])

    fleet = FleetConfig(emulate=3, speed=10.0)
    frontend = FrontendConfig(port=0, shutdown_grace_s=1.0)
    async with (
        Service(
            fleet,
            scheduler,
            frontend,
            metrics=FleetMetrics(CollectorRegistry()),
            emulator_args=SMALL_ENGINES,
            seed=SEED,
            make_scheduler=recorded,
        ) as service,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, service.url)
        asked = [asyncio.Event() for _ in range(REQUESTS)]
        asking = [
            asyncio.create_task(ask_later(client, n, asked[n], after_s=0.04 * n))
            for n in range(REQUESTS)
        ]
        await asked[15].wait()
        assert await client.settled(lambda: runs_something(client, "instance-0"))
        await client.post("/llumnix/drain", {"instance_id": "instance-0", "on": True})
        await asked[30].wait()
        await client.post("/llumnix/drain", {"instance_id": "instance-0", "on": False})
        drained = len(recorders[0].calls)
        await client.settled(lambda: moved_by_hand(client))
        await until(lambda: any(map(balances, recorders[0].calls[drained:])))
        service.emulators[1].process.send_signal(signal.SIGKILL)
        answers = await asyncio.gather(*asking)
    assert all(answer.right for answer in answers)
    (recorder,) = recorders
    return recorder.calls


async def ask_later(client: Client, n: int, asked: asyncio.Event, after_s: float) -> Answer:
    """Ask when it is due: the load is open."""
    await asyncio.sleep(after_s)
    asked.set()
    return await ask(client, n, 40 + 37 * n % 300, 60 + 53 * n % 240)


async def moved_by_hand(client: Client) -> bool:
    """Order moves of all requests; True when one was given (some are at no instance yet)."""
    rows = await client.get("/llumnix/requests")
    told = [
        await client.post("/llumnix/migrate", {"request_id": one["request_id"]}) for one in rows
    ]
    return any("migration_id" in one for one in told)


@pytest.mark.parametrize("policy", ["freeness", "power-of-two"])
async def test_a_live_run_decided_once_more_is_decided_alike(policy: str) -> None:
    """Dispatches, holds, migrations, vetoes and every explanation, to the last bit.

    The scheduler that decides again is a new one: it knows nothing but what the other was told.
    Another policy, other thresholds, or a call left out do show.
    """
    config = replace(SCHEDULER, dispatch=PolicySpec(policy))
    calls = await recorded_run(config)

    again = list(replayed(calls, GlobalScheduler(config, SEED)))

    assert again == calls
    assert_all_kinds(calls, holds=policy == "freeness")
    other_policy = replace(config, dispatch=PolicySpec("load-aware"))
    reluctant = replace(config, rebalance=replace(config.rebalance, high_steps=1e6))
    unconfirmed = [call for call in calls if call.method != "confirm"]
    assert list(replayed(calls, GlobalScheduler(other_policy, SEED))) != calls
    assert list(replayed(calls, GlobalScheduler(reluctant, SEED))) != calls
    assert list(replayed(unconfirmed, GlobalScheduler(config, SEED))) != unconfirmed


def assert_all_kinds(calls: list[Call], *, holds: bool) -> None:
    """The recording is worth its name: every kind of call and of decision is in it."""
    asked = Counter(call.method for call in calls)
    assert set(asked) >= {
        *("dispatch", "confirm", "forget", "rebalance", "freeness"),
        *("order_started", "order_ended", "instance_gone"),
    }
    decided = Counter(kind(call.answer) for call in calls if call.method == "dispatch")
    assert decided["Dispatch"] >= REQUESTS
    # Any policy holds those that may have crashed what was killed: each is tried alone.
    assert decided["Hold"] > 0 or not holds
    assert any(map(balances, calls))
    assert any(call.method == "order_ended" and call.keywords["moved"] for call in calls)


def balances(call: Call) -> bool:
    """Whether migrations were ordered."""
    return call.method == "rebalance" and bool(orders(call.answer))


def kind(answer: object) -> str:
    """The type of a decision in plain values."""
    assert isinstance(answer, list)
    return str(answer[0][0])


def orders(answer: object) -> list[object]:
    """The migrations ordered in a rebalance."""
    assert isinstance(answer, list)
    assert isinstance(answer[0], list)
    return answer[0]
