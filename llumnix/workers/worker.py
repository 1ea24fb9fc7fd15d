"""A frontend worker: it serves the clients whose connections the system gives it."""

import asyncio
import logging
import os
from dataclasses import replace

from llumnix.errors import ConfigError, LaunchError
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.logs.setup import configure
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from llumnix.scheduler_link.front.link import Connect, Dial, FrontLink
from llumnix.workers.backing import ApartBacking, FarBacking
from llumnix.workers.parent import Parent
from llumnix.workers.setup import Setup

log = logging.getLogger(__name__)


class Worker:
    """One frontend of several. Raises ConfigError, OSError or LaunchError.

    `dial` reaches the scheduler on another machine; without it, that is the supervisor's.
    """

    def __init__(self, setup: Setup, dial: Connect | None = None) -> None:
        settings = setup.settings
        names = [each.name for each in settings.scheduler.classes]
        self._start_timeout_s = settings.fleet.start_timeout_s
        self._link = FrontLink(
            setup.name,
            Dial(setup.link_path) if dial is None else dial,
            settings.fleet,
            len(names),
            setup.secret,
            Tally(FleetMetrics(), names),
            setup.epoch_s,
            settings.frontend.queue_timeout_s,
            settings.frontend.retry_after_s,
            afar=dial is not None,
        )
        backing = FarBacking if dial is None else ApartBacking
        self._backing = backing(
            self._link, settings.scheduler, setup.admin_path, shares_port=setup.shares_port
        )
        config = share_of(setup)
        self._setup = setup
        self.server = FrontendServer(config, self._backing)

    async def start(self) -> str:
        """Link up with the scheduler, then listen; return the clients' URL."""
        if not await self._link.start(self._start_timeout_s):
            raise LaunchError(f"the scheduler did not answer: {self._link.trouble}")
        return await self.server.start()

    def reconfigure(self, setup: Setup) -> None:
        """Apply other settings. Raises ConfigError, and then nothing has changed."""
        use_files = self.server.read_files()
        self._setup = setup
        self.server.reconfigure(share_of(setup))
        use_files()

    async def close(self) -> None:
        """Stop; open streams have the grace period to finish."""
        await self.server.close()
        await self._link.close()
        await self._backing.close()


def share_of(setup: Setup) -> FrontendConfig:
    """Return one worker's settings: its port, and its share of what the machine has once."""
    config = setup.settings.frontend
    limit = config.max_connections
    return replace(
        config,
        port=setup.port,
        admin_port=None,
        queue_limit_bytes=max(1, config.queue_limit_bytes // config.workers),
        max_connections=None if limit is None else -(-limit // config.workers),
    )


async def run_worker(setup: Setup, parent: Parent) -> None:
    """Run a worker until it is asked to stop; it then takes leave of the clients."""
    parent.listen()
    worker = Worker(setup)
    reloading: asyncio.Task[None] | None = None
    try:
        url = await worker.start()
        parent.tell(ready=os.getpid(), url=url)
        reloading = asyncio.create_task(_reload(worker, setup, parent))
        await parent.asked.stop.wait()
        cut = await worker.server.leave(parent.asked.hurry)
        parent.tell(cut=cut)
    finally:
        if reloading is not None:
            reloading.cancel()
        await worker.close()


async def _reload(worker: Worker, setup: Setup, parent: Parent) -> None:
    while True:
        settings = await parent.next_settings()
        try:
            worker.reconfigure(setup.with_settings(settings))
        except (ConfigError, ValueError) as error:
            parent.tell(refused=str(error))
        else:
            configure(settings.logs, background=True)
            parent.tell(refused=None)
