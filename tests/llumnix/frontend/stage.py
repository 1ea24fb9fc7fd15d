"""A stage for whole-frontend tests: a real frontend and fleet in front of scripted instances."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
from prometheus_client import CollectorRegistry

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceLink, MigrationOrder
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from migration.llumlet.fleet_messages import EventKind, MigrationEvent, Recalled
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import (
    Explanation,
    InstanceId,
    InstanceLoad,
    MigrateReason,
    MigrationId,
    RequestId,
)
from tests.llumnix.frontend.stub import SECRET, StubInstance

_WHY = Explanation("manual")


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has come true; fail when it does not."""
    async with asyncio.timeout(30.0):
        while not condition():  # noqa: ASYNC110 - what is waited for signals no event
            await asyncio.sleep(0.001)


class StubLink:
    """A link that obeys the test."""

    def __init__(self, stub: StubInstance) -> None:
        self.stub = stub
        self.gone = asyncio.Event()
        self.reason = ""

    async def lost(self) -> str:
        await self.gone.wait()
        return self.reason

    def give_up(self, reason: str) -> None:
        self.reason = reason
        self.gone.set()

    async def migrate_out(self, move: MigrationOrder) -> None:
        self.stub.orders.append(move)

    async def drain(self, on: bool) -> None:
        self.stub.drained.append(on)

    async def recall(self, request_id: RequestId, owner: str, timeout_s: float) -> Recalled | None:
        return self.stub.remembers.get((request_id, owner)) if timeout_s else None

    async def close(self) -> None:
        self.gone.set()


def load(name: str, **changes: Any) -> InstanceLoad:
    """Give the report of an idle instance."""
    idle: dict[str, Any] = {
        "instance_id": InstanceId(name),
        "capacity_tokens": 1000,
        "physical_tokens": 0,
        "head_demand_tokens": 0,
        "queued_demand_tokens": 0,
        "running": (0, 0),
        "waiting": (0, 0),
    }
    return InstanceLoad(**{**idle, **changes})


class Stage:
    """A frontend in front of scripted instances, named a, b, c…; requests go round-robin."""

    def __init__(
        self,
        instances: int = 2,
        *,
        plugged: bool = True,
        scheduler: SchedulerConfig | None = None,
        secret: bytes = SECRET,
        link: bool = True,
        engine: type[StubInstance] = StubInstance,
        models: Mapping[str, str] | None = None,
        express: bool = True,
        **config: Any,
    ) -> None:
        self.stubs = [engine("abcdefgh"[i], plugged=plugged) for i in range(instances)]
        for stub in self.stubs:
            stub.model = (models or {}).get(stub.name, stub.model)
        self.links: dict[str, StubLink] = {}
        self.brain = GlobalScheduler(
            scheduler or SchedulerConfig(dispatch=PolicySpec("round-robin"), migration=False)
        )
        self.frontend_config = FrontendConfig(
            **{"port": 0, "shutdown_grace_s": 0.2, "queue_timeout_s": 10.0, **config}
        )
        self.metrics = FleetMetrics(CollectorRegistry())
        self._secret = secret
        self._express = express
        # Untouched instances are linked up with for real: there is nothing to script.
        self._linker = self._link if plugged and link else None
        self.url = ""

    async def __aenter__(self) -> Self:
        for stub in self.stubs:
            await stub.start()
        config = FleetConfig(reconnect_min_s=0.02, reconnect_max_s=0.05, poll_interval_s=0.05)
        names = [known.name for known in self.brain.config.classes]
        self.fleet = Fleet(
            config,
            self.brain,
            self._secret,
            Tally(self.metrics, names),
            FleetClock(),
            linker=self._linker,
        )
        await self.fleet.start(tuple(stub.url for stub in self.stubs))
        self.server = FrontendServer(self.frontend_config, self.fleet, express=self._express)
        self.url = await self.server.start()
        assert await self.fleet.wait_up(len(self.stubs), 10.0)
        self.session = aiohttp.ClientSession(base_url=self.url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.session.close()
        await self.server.close()
        await self.fleet.close()
        for stub in self.stubs:
            await stub.stop()

    async def _link(self, instance: Instance, identity: Identity) -> InstanceLink:
        stub = next(each for each in self.stubs if each.name == identity.instance_id)
        link = self.links[stub.name] = StubLink(stub)
        instance.id = identity.instance_id
        asyncio.get_running_loop().call_soon(self.report, stub.name)
        return link

    def report(self, name: str, **changes: Any) -> None:
        """Let an instance report its load."""
        instance = self.instance(name)
        new_ids = [RequestId(each) for each in changes.pop("new_ids", ())]
        instance.take_load(load(name, **changes), self.fleet.now_s())
        self.fleet.reported(instance, new_ids)

    def instance(self, name: str) -> Instance:
        """Find an instance by its name."""
        instance = self.fleet.instances.get(name)
        assert instance is not None
        return instance

    def order(self, migration_id: str, source: str, destination: str) -> None:
        """Let the fleet have ordered a migration."""
        target = self.instance(destination)
        move = MigrationOrder(
            MigrationId(migration_id), InstanceId(source), target, None, 1, MigrateReason.MANUAL
        )
        self.fleet.mover.book.begin(move, _WHY, self.fleet.now_s())

    def started(self, migration_id: str, request_id: str, source: str, destination: str) -> None:
        """Let a llumlet say which request it moves."""
        self.ended(migration_id, "started", request_id, source, destination)

    def ended(
        self,
        migration_id: str,
        kind: str,
        request_id: str,
        source: str,
        destination: str,
        copied_bytes: int = 0,
        unresolved: bool = False,
    ) -> None:
        """Let a llumlet say what became of a migration."""
        self.fleet.heard(
            MigrationEvent(
                EventKind(kind),
                MigrationId(migration_id),
                request_id,
                InstanceId(source),
                InstanceId(destination),
                MigrateReason.MANUAL,
                copied_bytes=copied_bytes,
                unresolved=unresolved,
            )
        )

    async def stream(self, body: dict[str, Any] | None = None, *, chat: bool = False) -> bytes:
        """Post a streaming request and read all of its stream."""
        async with self.post(body, chat=chat) as response:
            assert response.status == 200, await response.text()
            body_read: bytes = await response.read()
            return body_read

    def post(
        self,
        body: dict[str, Any] | None = None,
        *,
        chat: bool = False,
        stream: bool = True,
        **headers: str,
    ) -> Any:
        """Post a request."""
        asked: dict[str, Any] = {"model": "m", "stream": stream, **(body or {})}
        asked.setdefault("messages" if chat else "prompt", [])
        path = "/v1/chat/completions" if chat else "/v1/completions"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(path, json=asked, headers=named)

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric."""
        return self.metrics.registry.get_sample_value(f"llumnix_{name}", labels) or 0.0
