"""The thread beside the engine: an event loop with the llumlet's agent in it."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from migration.config import MigrationConfig
from migration.engine import Gone, RequestState
from migration.layout import Layout
from migration.llumlet.agent import LlumletAgent
from migration.llumlet.fleet_messages import PROTOCOL
from migration.vllm.announce import announce, withdraw
from migration.vllm.arena import Arena, Slots
from migration.vllm.engine.bridge import Bridge
from migration.vllm.engine.engine_side import EngineSide
from migration.vllm.engine.hooks import VllmHooks
from migration.vllm.settings import PluginSettings
from policies.types import InstanceId, RequestId

log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
ANNOUNCE_S = 1.0
STOP_TIMEOUT_S = 2.0


def fitted(config: MigrationConfig, layout: Layout, slots: int) -> MigrationConfig:
    """Bound frames by the staging memory: two at once must fit, and one block must."""
    most_blocks = max(1, slots // 2)
    return replace(
        config,
        max_payload_bytes=max(config.max_payload_bytes, layout.block_bytes),
        chunk_bytes=min(
            config.chunk_bytes, config.max_payload_bytes, most_blocks * layout.block_bytes
        ),
    )


def listen(engine: EngineSide, bridge: Bridge, hooks: VllmHooks, agent: LlumletAgent) -> None:
    """Forward engine events to the agent."""

    def detached(state: RequestState, tail_slots: dict[int, int]) -> None:
        if hooks.leaves(state, tail_slots):
            agent.detached(state.request_id, state)
        else:
            log.warning("event=left_alone request_id=%s", state.request_id)

    def gone(request_id: RequestId, why: Gone) -> None:
        agent.gone(request_id, why)

    listener = engine.listener
    listener.stepped, listener.detached, listener.gone = agent.stepped, detached, gone
    listener.arrived, listener.ended = agent.request_arrived, agent.remember
    engine.shelf.freed = lambda: bridge.to_agent(hooks.slots_freed)


class AgentThread:
    """Starts the agent and keeps the announcement up to date, as long as the process lives."""

    def __init__(
        self,
        engine: EngineSide,
        bridge: Bridge,
        arenas: Sequence[Arena],
        slots_out: Slots,
        layout: Layout,
        settings: PluginSettings,
        secret: bytes,
        engine_id: str,
        capacity_tokens: int,
    ) -> None:
        self._engine = engine
        self._bridge = bridge
        self._settings = settings
        self._secret = secret
        self._engine_id = engine_id
        self._capacity_tokens = capacity_tokens
        self._layout_digest = layout.digest()
        self._started = threading.Event()
        self._over = asyncio.Event()
        self._failure: BaseException | None = None
        self._port = 0
        instance_id = InstanceId(settings.instance_id or engine_id)
        self._make: Callable[[], tuple[VllmHooks, LlumletAgent]] = lambda: self._build(
            arenas, slots_out, layout, instance_id
        )
        self._thread = threading.Thread(target=self._run, name="llumlet", daemon=True)

    def start(self) -> int:
        """Start; return the control port. Raises OSError when it cannot be listened on."""
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            raise OSError(f"the llumlet did not start within {START_TIMEOUT_S:g} s")
        if self._failure is not None:
            raise OSError(f"the llumlet cannot start: {self._failure}") from self._failure
        return self._port

    def stop(self) -> None:
        """Tell the peers, stop, and remove the announcement; does not wait long."""
        self._bridge.to_agent(self._over.set)
        self._thread.join(STOP_TIMEOUT_S)
        withdraw(self._engine_id)

    def _build(
        self, arenas: Sequence[Arena], slots_out: Slots, layout: Layout, instance_id: InstanceId
    ) -> tuple[VllmHooks, LlumletAgent]:
        config = fitted(self._settings.migration, layout, len(slots_out))
        hooks = VllmHooks(
            self._engine,
            self._bridge,
            arenas,
            slots_out,
            layout,
            instance_id,
            config.stage_timeout_s,
            config.claim_timeout_s,
        )
        agent = LlumletAgent(hooks, config, self._secret, time.monotonic, instance_id)
        return hooks, agent

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self._failure = error
            log.exception("event=llumlet_died")
        finally:
            self._started.set()
            withdraw(self._engine_id)

    async def _live(self) -> None:
        self._bridge.join(asyncio.get_running_loop())
        hooks, agent = self._make()
        listen(self._engine, self._bridge, hooks, agent)
        self._port = await agent.start(self._settings.control_host, self._settings.control_port)
        self._announce(agent)
        self._started.set()
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_S):
                    await self._over.wait()
            self._announce(agent)
        await agent.close()

    def _announce(self, agent: LlumletAgent) -> None:
        stats = agent.stats()
        counts = dict(self._engine.counts)
        for group in ("migrations_out", "migrations_in", "refused", "dropped"):
            for what, value in stats[group].items():
                counts[f"{group}.{what}"] = value
        active = stats["active"]
        levels = {
            "migrations_out": active["out"],
            "migrations_in": active["in"],
            "staging_slots": self._engine.slots_taken(),
        }
        labels = {
            "instance_id": self._settings.instance_id,
            "control_host": self._settings.advertise_host or self._settings.control_host,
            "control_port": str(self._settings.advertise_port or self._port),
            "capacity_tokens": str(self._capacity_tokens),
            "engine": "vllm",
            "layout": self._layout_digest,
            "protocol": str(PROTOCOL),
        }
        try:
            announce(self._engine_id, labels, counts, levels)
        except OSError as error:
            log.warning("event=announce_failed error=%s", error)
