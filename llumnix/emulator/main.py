"""Run one emulated engine: its steps, its llumlet and its HTTP server."""

import asyncio
import dataclasses
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.instance import EmulatedInstance
from llumnix.emulator.loop import StepLoop
from llumnix.emulator.server import EmulatorServer
from migration.config import MigrationConfig
from migration.llumlet.agent import LlumletAgent
from policies.types import InstanceId

_log = logging.getLogger(__name__)
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """A running emulated engine. `stepping` ends only if it fails or is closed."""

    url: str
    control_port: int
    instance: EmulatedInstance
    loop: StepLoop
    agent: LlumletAgent | None
    stepping: "asyncio.Task[None]"


async def run_emulator(
    config: EmulatorConfig,
    secret: bytes,
    announce: Callable[[dict[str, object]], None],
    migration: MigrationConfig | None = None,
) -> None:
    """Serve until cancelled, or until stepping fails; call `announce` with the URL once ready.

    Without a secret this is a plain OpenAI server: no llumlet, no migration, no resume.
    """
    async with emulator(config, secret, migration) as running:
        # For tests of faults: the engine hangs, or goes on, while its server and llumlet answer.
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, running.loop.hang)
        gc.freeze()  # what is allocated so far stays: skipping it shortens collections
        announce(
            {
                "instance_id": config.instance_id,
                "url": running.url,
                "control_port": running.control_port,
            }
        )
        await running.stepping


@asynccontextmanager
async def emulator(
    config: EmulatorConfig, secret: bytes, migration: MigrationConfig | None = None
) -> AsyncIterator[RunningEmulator]:
    """Serve within the context; leaving it cuts all streams, as the death of an engine would."""
    instance = EmulatedInstance(config)
    loop = StepLoop(instance, config.speed)
    server = EmulatorServer(instance, loop, secret)
    stepping = asyncio.create_task(loop.run(), name=f"steps of {config.instance_id}")
    agent = None
    runner = web.AppRunner(
        server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    try:
        if secret:
            agent = _agent(instance, secret, migration or MigrationConfig())
            server.llumlet_stats = agent.stats
            server.control_port = await agent.start(config.host, config.control_port)
        await runner.setup()
        site = web.TCPSite(runner, config.host, config.port, backlog=_BACKLOG)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://{config.host}:{port}"
        _log.info("serving instance_id=%s url=%s", config.instance_id, url)
        yield RunningEmulator(url, server.control_port, instance, loop, agent, stepping)
    finally:
        stepping.cancel()
        await asyncio.gather(stepping, return_exceptions=True)
        instance.close()
        if agent is not None:
            await agent.close()
        await runner.cleanup()


def _agent(instance: EmulatedInstance, secret: bytes, base: MigrationConfig) -> LlumletAgent:
    config, sizes = instance.config, instance.sizes
    migration = dataclasses.replace(
        base,
        claim_timeout_s=config.claim_timeout_s,
        link_bytes_per_s=sizes.link_bytes_per_s,
        link_bytes_per_token=sizes.link_bytes_per_token,
    )
    hooks = EmulatorHooks(instance)
    agent = LlumletAgent(
        hooks,
        migration,
        secret,
        time.monotonic,
        InstanceId(config.instance_id),
        speed=config.speed,
    )
    hooks.set_listener(agent)
    instance.on_arrived, instance.on_ended = agent.request_arrived, agent.remember
    return agent
