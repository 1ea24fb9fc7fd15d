"""The whole service in one process: optional emulated instances, the fleet, the frontend."""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from llumnix.admin.own_token import OwnToken
from llumnix.errors import ConfigError, LaunchError
from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet
from llumnix.fleet.scheduler import FleetScheduler
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.server import FrontendServer
from llumnix.instances.config import FleetConfig
from llumnix.instances.plugged import control_config
from llumnix.logs.config import LogConfig
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from llumnix.processes.launch import Emulator, launch_emulators, stop_emulators
from llumnix.processes.signals import Signals
from migration.links.tls import link_tls
from policies.scheduler import GlobalScheduler, SchedulerConfig

log = logging.getLogger(__name__)


def fleet_secret(config: FleetConfig) -> bytes:
    """Return the fleet's shared secret: from its file, else LLUMNIX_SECRET, else b"".

    A fleet that only starts its own instances gets a fresh secret. Raises ConfigError if the file
    cannot be read or is empty.
    """
    if config.secret_file:
        try:
            secret = Path(config.secret_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"cannot read {config.secret_file}: {error.strerror}") from error
        if not secret:
            raise ConfigError(f"{config.secret_file} is empty; it must hold a long random string")
        return secret
    secret = os.environ.get("LLUMNIX_SECRET", "").encode()
    return secret or (secrets.token_hex(32).encode() if config.emulate else b"")


class Running(Protocol):
    """A service, in one process or several, as whoever runs it sees it."""

    url: str
    admin_url: str

    async def start(self) -> str:
        """Start everything; return the clients' URL."""

    async def leave(self, hurry: asyncio.Event) -> int:
        """Take leave of the clients: return how many requests were cut; `hurry` ends the waits."""

    async def close(self) -> None:
        """Stop everything."""


class Service:
    """A running frontend with its fleet; use it as an async context manager.

    `emulator_args` are further arguments of `llumnix emulate` for the instances it starts itself.
    `make_scheduler` makes the scheduler from its settings and the seed. Raises LaunchError if the
    instances do not start, ConfigError or ValueError for unusable settings, OSError if the address
    is in use.
    """

    def __init__(
        self,
        fleet: FleetConfig,
        scheduler: SchedulerConfig,
        frontend: FrontendConfig,
        *,
        secret: bytes | None = None,
        metrics: FleetMetrics | None = None,
        emulator_args: Sequence[str] = (),
        seed: int = 0,
        make_scheduler: Callable[[SchedulerConfig, int], FleetScheduler] = GlobalScheduler,
    ) -> None:
        self.url = ""
        self.admin_url = ""
        self.emulators: list[Emulator] = []
        self._config = fleet
        self._secret = fleet_secret(fleet) if secret is None else secret
        self._emulator_args = emulator_args
        link_tls(control_config(fleet))  # else each link would find out by itself, later
        names = [known.name for known in scheduler.classes]
        tally = Tally(metrics or FleetMetrics(), names)
        clock = FleetClock(fleet.speed)
        brain = make_scheduler(scheduler, seed)
        self.fleet = Fleet(fleet, brain, self._secret, tally, clock)
        self._token = OwnToken(frontend.admin_token_file, frontend.shares_port)
        self._server = FrontendServer(frontend, self.fleet, self._token.token)

    async def start(self) -> str:
        """Start everything; return the frontend's URL once its own instances take requests."""
        try:
            if self._config.emulate:
                self.emulators = await self._launch()
            urls = [each.url for each in self.emulators]
            await self.fleet.start(self._config.instances)
            await self.fleet.set_members(urls, "emulated")
            self.url = await self._server.start()
            self.admin_url = self._server.admin_url
            self._token.publish(self.admin_url, self.url)
            if not await self.fleet.wait_up(len(urls), self._config.start_timeout_s):
                raise LaunchError(
                    "emulated instances started, but the frontend could not connect to them"
                )
        except BaseException:
            await self.close()
            raise
        return self.url

    async def reconfigure(
        self, fleet: FleetConfig, scheduler: SchedulerConfig, frontend: FrontendConfig
    ) -> None:
        """Apply changed settings to what happens from now on, and read key files again.

        Also puts in force what the frontend's files say now. Raises ConfigError, PolicyError or
        ValueError, before anything has changed, if any of it cannot be applied.
        """
        use_files = self._server.read_files()
        before = self.fleet.scheduler.config
        self.fleet.scheduler.reconfigure(scheduler)
        try:
            await self.fleet.reload(fleet)
        except Exception:
            self.fleet.scheduler.reconfigure(before)
            raise
        self._config = fleet
        self._server.reconfigure(frontend)
        use_files()

    async def log_as(self, logs: LogConfig) -> None:
        """Do nothing: there is no other process that writes a log."""

    async def leave(self, hurry: asyncio.Event) -> int:
        """Take leave of the clients: return how many requests were cut; `hurry` ends the waits."""
        return await self._server.leave(hurry)

    async def close(self) -> None:
        """Stop everything: first the frontend, which lets open streams finish."""
        self._token.withdraw()
        await self._server.close()
        await self.fleet.close()
        await stop_emulators(self.emulators)
        self.emulators = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _launch(self) -> list[Emulator]:
        return await launch_emulators(
            [f"instance-{number}" for number in range(self._config.emulate)],
            self._secret,
            [*self._emulator_args, "--speed", str(self._config.speed)],
            start_timeout_s=self._config.start_timeout_s,
        )


async def run_frontend(
    service: Running, ready: Callable[[str, str], None], reload: Callable[[], Awaitable[None]]
) -> None:
    """Run a service until a signal ends it; `reload` is called on SIGHUP.

    `ready` is given the clients' URL and the admin API's. The first SIGINT or SIGTERM takes leave
    of the clients, the second ends at once.
    """
    signals = Signals()
    signals.listen()
    if not await _started(service, signals.stop):
        return
    try:
        ready(service.url, service.admin_url)
        while await signals.next() is signals.reload:
            signals.reload.clear()
            await reload()
        log.info("frontend_leaving url=%s", service.url)
        cut = await service.leave(signals.hurry)
        log.log(logging.WARNING if cut else logging.INFO, "frontend_left cut_requests=%d", cut)
    finally:
        await service.close()


async def _started(service: Running, stop: asyncio.Event) -> bool:
    """Start a service, unless it is to stop before it has; return whether it runs."""
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return False
    await starting
    return True
