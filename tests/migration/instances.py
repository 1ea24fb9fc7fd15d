"""Real llumlet agents beside fake engines, for tests with real links in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from migration.config import MigrationConfig
from migration.links.link import Transport
from migration.llumlet.agent import LlumletAgent
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from migration.protocol.peer import Peer
from policies.types import InstanceId, MigrateReason, MigrationId, RequestId
from tests.migration.fake_engine import FakeEngine
from tests.migration.protocol.frontend_model import Frontend

SECRET = b"a secret"
PATIENCE_S = 20.0
CONFIG = MigrationConfig(chunk_bytes=64)


class Instance:
    """A fake engine that steps by itself, and its agent."""

    def __init__(
        self,
        name: str,
        frontend: Frontend,
        config: MigrationConfig = CONFIG,
        transport: Transport | None = None,
        n_blocks: int = 1024,
    ) -> None:
        self.name = InstanceId(name)
        self.engine = FakeEngine(self.name, n_blocks, frontend)
        self.agent = LlumletAgent(
            self.engine, config, SECRET, instance_id=name, transport=transport
        )
        self.engine.listener = self.agent
        self.events: list[MigrationEvent] = []
        self.port = 0
        self.stepping = True
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.port = await self.agent.start()
        self._life = asyncio.get_running_loop().create_task(self._live())

    async def close(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        await self.agent.close()

    @property
    def peer(self) -> Peer:
        return Peer(self.name, "127.0.0.1", self.port)

    def order(self, migration: str, to: "Instance | Peer", request: str | None = None) -> None:
        """Order a migration as the fleet would."""
        peer = to.peer if isinstance(to, Instance) else to
        request_id = None if request is None else RequestId(request)
        order = MigrateOut(MigrationId(migration), peer, request_id, 1 << 20, MigrateReason.MANUAL)
        self.agent.llumlet.order(order)
        self.agent._pump()

    def outcomes(self, side: str = "out") -> dict[str, int]:
        return self.agent.stats()[f"migrations_{side}"]

    async def _live(self) -> None:
        while True:
            if self.stepping and self.engine.can_step():
                self.engine.step()
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running(*instances: Instance) -> AsyncIterator[None]:
    """Start instances; afterwards check that none leaks a block, and close them."""
    for instance in instances:
        await instance.start()
    try:
        yield
        for instance in instances:
            instance.engine.check_blocks()
    finally:
        for instance in instances:
            await instance.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; fail when it does not come about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (conditions of several parties)
            await asyncio.sleep(0.002)


def patient(config: MigrationConfig = CONFIG) -> MigrationConfig:
    """Let no timer interfere: what ends must end by itself."""
    return replace(
        config,
        reserve_timeout_s=60.0,
        stage_timeout_s=60.0,
        detach_timeout_s=60.0,
        commit_timeout_s=60.0,
    )
