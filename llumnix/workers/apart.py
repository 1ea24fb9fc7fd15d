"""A scheduler by itself, and frontends by themselves: each a process somebody else looks after."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llumnix.admin.own_token import OwnToken
from llumnix.errors import ConfigError
from llumnix.fleet.clock import FleetClock
from llumnix.frontend.config import FrontendConfig, is_loopback
from llumnix.instances.config import FleetConfig
from llumnix.logs.config import LogConfig
from llumnix.processes.launch import Emulator, launch_emulators, stop_emulators
from llumnix.scheduler_link.tcp import TcpDial
from llumnix.workers.link_address import client_tls, insist_on_secret, read_address
from llumnix.workers.scheduler import SchedulerProcess
from llumnix.workers.setup import Settings, Setup
from llumnix.workers.worker import Worker
from policies.scheduler import SchedulerConfig

log = logging.getLogger(__name__)


class LoneScheduler:
    """The fleet, the queue and the admin API, for frontends that reach it at `listen`.

    Used like `llumnix.service.Service`; `url` is where frontends reach it, as HOST:PORT. Raises
    ConfigError, LaunchError or OSError.
    """

    def __init__(
        self, settings: Settings, secret: bytes, listen: str, emulator_args: Sequence[str]
    ) -> None:
        self.url = ""
        self.admin_url = ""
        self._settings = settings
        self._secret = secret
        self._host, self._port = read_address(listen, "--listen")
        insist_on_secret(secret, [self._host])
        self._emulator_args = emulator_args
        self._emulators: list[Emulator] = []
        self._token = OwnToken(settings.frontend.admin_token_file, lambda _: False)
        self._folder: Path | None = None
        self._process: SchedulerProcess | None = None

    async def start(self) -> str:
        """Start everything; return where frontends reach it."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self.url

    async def reconfigure(
        self, fleet: FleetConfig, scheduler: SchedulerConfig, frontend: FrontendConfig
    ) -> None:
        """Apply other settings. Raises ConfigError, PolicyError or ValueError."""
        assert self._process is not None, "it has started"
        settings = Settings(fleet, scheduler, frontend, self._settings.logs)
        await self._process.reconfigure(settings)
        self._settings = settings

    async def log_as(self, _logs: LogConfig) -> None:
        """Do nothing: there is no other process that writes a log."""

    async def leave(self, _hurry: asyncio.Event) -> int:
        """Return 0: frontends go on without a scheduler."""
        return 0

    async def close(self) -> None:
        """Stop everything."""
        self._token.withdraw()
        if self._process is not None:
            await self._process.close()
        await stop_emulators(self._emulators)
        self._emulators = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _start(self) -> None:
        config = self._settings.fleet
        self._folder = Path(tempfile.mkdtemp(prefix="llumnix-"))  # only its owner may enter it
        if config.emulate:
            self._emulators = await launch_emulators(
                [f"instance-{number}" for number in range(config.emulate)],
                self._secret,
                [*self._emulator_args, "--speed", str(config.speed)],
                start_timeout_s=config.start_timeout_s,
            )
        setup = Setup(
            0,
            self._settings,
            self._folder,
            self._secret,
            self._token.token,
            tuple(each.url for each in self._emulators),
            0,
            self._settings.frontend.admin_port_wanted(),
            shares_port=False,
            epoch_s=FleetClock(config.speed).now_s(),
        )
        self._process = SchedulerProcess(setup)
        self.admin_url = await self._process.start()
        await self._process.wait_up()
        port = await self._process.admit_from(self._host, self._port)
        self.url = f"{self._host}:{port}"
        self._token.publish(self.admin_url, self.admin_url)
        if not is_loopback(self._host) and not config.control_tls_ca_file:
            log.warning(
                "scheduler_link_in_plain_text host=%s: it carries the instances' API keys, if they "
                "have any; give --control-tls-ca-file and its certificate",
                self._host,
            )


class ApartFrontend:
    """One frontend whose scheduler is elsewhere; used like `llumnix.service.Service`."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.url = ""
        self.admin_url = ""
        self._settings = settings
        frontend = settings.frontend
        if frontend.workers > 1:
            raise ConfigError(
                "--scheduler is for one process: start several, each with a port of its own"
            )
        host, port = read_address(frontend.scheduler, "--scheduler")
        insist_on_secret(secret, [host])
        self._setup = Setup(
            1, settings, Path(), secret, "", (), frontend.port, 0, shares_port=True, epoch_s=0.0
        )
        self._dial = TcpDial(host, port, secret, client_tls(settings.fleet))
        self._worker: Worker | None = None

    async def start(self) -> str:
        """Link up with the scheduler, and listen; return the clients' URL."""
        self._worker = Worker(self._setup, self._dial)
        try:
            self.url = self.admin_url = await self._worker.start()
        except BaseException:
            await self.close()
            raise
        return self.url

    async def reconfigure(
        self, fleet: FleetConfig, scheduler: SchedulerConfig, frontend: FrontendConfig
    ) -> None:
        """Apply other settings of the frontend. Raises ConfigError."""
        assert self._worker is not None, "it has started"
        settings = Settings(fleet, scheduler, frontend, self._settings.logs)
        self._worker.reconfigure(self._setup.with_settings(settings))
        self._settings = settings

    async def log_as(self, _logs: LogConfig) -> None:
        """Do nothing: there is no other process that writes a log."""

    async def leave(self, hurry: asyncio.Event) -> int:
        """Take leave of the clients: return how many requests were cut; `hurry` ends the waits."""
        assert self._worker is not None, "it has started"
        return await self._worker.server.leave(hurry)

    async def close(self) -> None:
        """Stop; open streams have the grace period to finish."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
