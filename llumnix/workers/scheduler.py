"""The scheduler's process: fleet, queue, orders and admin API for all frontend workers."""

import asyncio
import os

from aiohttp import web

from llumnix.errors import ConfigError, LaunchError
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.backing import OwnBacking
from llumnix.frontend.http.tls import ServerTls, TlsFiles
from llumnix.frontend.lifetime import Lifetime
from llumnix.frontend.listeners import Address, Listeners
from llumnix.frontend.server import build_admin_app
from llumnix.logs.setup import configure
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.scheduler_link.desk.counted import shared_tally
from llumnix.scheduler_link.desk.desk import Desk
from llumnix.scheduler_link.desk.freshness import Freshness
from llumnix.scheduler_link.desk.requests import DeskRequestTable
from llumnix.scheduler_link.tcp import TcpDesk
from llumnix.workers.link_address import server_tls
from llumnix.workers.parent import Parent
from llumnix.workers.setup import Settings, Setup
from policies.registry import PolicyError
from policies.scheduler import GlobalScheduler


class SchedulerProcess:
    """Everything that frontends share. Raises ConfigError, OSError or LaunchError."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        settings = setup.settings
        frontend = settings.frontend
        names = [each.name for each in settings.scheduler.classes]
        tally, counted = shared_tally(FleetMetrics(), names)
        try:
            brain = GlobalScheduler(settings.scheduler)
        except (PolicyError, ValueError) as error:
            raise ConfigError(str(error)) from error
        self.fleet = Fleet(
            settings.fleet,
            brain,
            setup.secret,
            tally,
            FleetClock(settings.fleet.speed),
            requests=DeskRequestTable(),
            epoch_s=setup.epoch_s,
        )
        self._backing = OwnBacking(self.fleet, frontend, setup.admin_token, counted)
        self.desk = Desk(self.fleet, self._backing.queue, counted, frontend.workers)
        self._tls = ServerTls.of(
            TlsFiles(
                frontend.admin_tls_cert_file,
                frontend.admin_tls_key_file,
                frontend.admin_tls_client_ca_file,
            )
        )
        self._listeners = Listeners(frontend)
        self._desk_server: asyncio.Server | None = None
        self._admin: web.AppRunner | None = None
        self._gate: TcpDesk | None = None

    async def admit_from(self, host: str, port: int) -> int:
        """Let frontends of other machines in; return the port. Raises OSError or ConfigError."""
        self._gate = TcpDesk(self._setup.secret, self.desk.make_channel)
        return await self._gate.start(host, port, server_tls(self._setup.settings.fleet))

    async def start(self) -> str:
        """Start; return the URL of the admin port, empty if it has none."""
        setup, settings = self._setup, self._setup.settings
        await self.fleet.start(settings.fleet.instances)
        await self.fleet.set_members(list(setup.emulated), "emulated")
        setup.clear_paths()
        self.desk.start()
        self._desk_server = await asyncio.get_running_loop().create_unix_server(
            self.desk.make_channel, setup.link_path
        )
        self._admin = web.AppRunner(self._app(), handler_cancellation=True, access_log=None)
        await self._admin.setup()
        await web.UnixSite(self._admin, setup.admin_path).start()
        if setup.shares_port:
            return ""
        address = Address(settings.frontend.admin_host, setup.admin_port, self._tls, shared=True)
        return await self._listeners.listen(self._app(), address)

    async def wait_up(self) -> None:
        """Wait for the instances that were started for this fleet. Raises LaunchError."""
        timeout_s = self._setup.settings.fleet.start_timeout_s
        if not await self.fleet.wait_up(len(self._setup.emulated), timeout_s):
            raise LaunchError(
                "emulated instances started, but the scheduler could not connect to them"
            )

    async def reconfigure(self, settings: Settings) -> None:
        """Apply other settings, or none. Raises ConfigError, PolicyError or ValueError."""
        use = self._tls.read() if self._tls is not None else None
        before = self.fleet.scheduler.config
        self.fleet.scheduler.reconfigure(settings.scheduler)
        try:
            await self.fleet.reload(settings.fleet)
        except Exception:
            self.fleet.scheduler.reconfigure(before)
            raise
        if use is not None:
            use()
        limits = settings.frontend
        self._backing.queue.reconfigure(
            limits.queue_limit, limits.queue_timeout_s, limits.retry_after_s
        )

    async def close(self) -> None:
        """Stop everything."""
        if self._desk_server is not None:
            self._desk_server.close()
        if self._gate is not None:
            self._gate.close()
        await self.desk.close()
        await self._listeners.close()
        if self._admin is not None:
            await self._admin.cleanup()
        await self.fleet.close()

    def _app(self) -> web.Application:
        config = self._setup.settings.frontend
        lifetime = Lifetime(lambda: bool(self.fleet.instances.up()), config.retry_after_s)
        app = build_admin_app(lifetime, self._backing)
        Freshness(self.desk).install(app)
        return app


async def run_scheduler(setup: Setup, parent: Parent) -> None:
    """Run the scheduler's process until it is asked to stop."""
    parent.listen()
    process = SchedulerProcess(setup)
    reloading: asyncio.Task[None] | None = None
    try:
        admin_url = await process.start()
        await process.wait_up()
        parent.tell(ready=os.getpid(), admin_url=admin_url)
        reloading = asyncio.create_task(_reload(process, parent))
        await parent.asked.stop.wait()
    finally:
        if reloading is not None:
            reloading.cancel()
        await process.close()


async def _reload(process: SchedulerProcess, parent: Parent) -> None:
    while True:
        settings = await parent.next_settings()
        try:
            await process.reconfigure(settings)
        except (ConfigError, PolicyError, ValueError) as error:
            parent.tell(refused=str(error))
        else:
            configure(settings.logs, background=True)
            parent.tell(refused=None)
