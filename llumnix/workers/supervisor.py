"""The supervisor: it starts the scheduler's process and the workers, and keeps them running."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llumnix.admin.own_token import OwnToken
from llumnix.errors import ConfigError
from llumnix.fleet.clock import FleetClock
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.listeners import reachable
from llumnix.instances.config import FleetConfig
from llumnix.logs.config import LogConfig
from llumnix.processes.launch import Emulator, launch_emulators, stop_emulators
from llumnix.tasks import spawn
from llumnix.workers.child import Child
from llumnix.workers.ports import HeldPort
from llumnix.workers.setup import Settings, Setup
from policies.scheduler import SchedulerConfig

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
_RESTART_MIN_S: Final = 0.05
_RESTART_MAX_S: Final = 5.0
_LIVED_S: Final = 3.0
_STOP_GRACE_S: Final = 10.0
_LONGEST_FOLDER: Final = 80


class Supervisor:
    """A service of several processes, used like `llumnix.service.Service`.

    `secret` is the fleet's; `emulator_args` are those of the instances it starts itself.
    """

    def __init__(self, settings: Settings, secret: bytes, emulator_args: Sequence[str]) -> None:
        self.url = ""
        self.admin_url = ""
        self._settings = settings
        self._secret = secret
        self._emulator_args = emulator_args
        self._emulators: list[Emulator] = []
        frontend = settings.frontend
        self._token = OwnToken(frontend.admin_token_file, frontend.shares_port)
        self._folder: Path | None = None
        self._ports: list[HeldPort] = []
        self._children: list[Child] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._leaving = False

    async def start(self) -> str:
        """Start everything; return the clients' URL. Raises LaunchError, ConfigError, OSError."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self.url

    async def reconfigure(
        self, fleet: FleetConfig, scheduler: SchedulerConfig, frontend: FrontendConfig
    ) -> None:
        """Have every process apply other settings. Raises ConfigError if one cannot.

        Those that have applied them then go back to what was.
        """
        before = self._settings
        after = Settings(fleet, scheduler, frontend, before.logs)
        done: list[Child] = []
        for child in self._children:
            refused = await child.apply(after)
            if refused is None:
                done.append(child)
                continue
            for each in [*done, child]:
                await each.apply(before)
            raise ConfigError(refused)
        self._settings = after

    async def log_as(self, logs: LogConfig) -> None:
        """Have every process write its log in this way."""
        before = self._settings
        self._settings = Settings(before.fleet, before.scheduler, before.frontend, logs)
        if logs != before.logs:
            await asyncio.gather(*(each.apply(self._settings) for each in self._children))

    async def leave(self, hurry: asyncio.Event) -> int:
        """Take leave of the clients: return how many requests were cut; `hurry` ends the waits."""
        self._leaving = True
        workers = self._children[1:]
        for each in workers:
            each.ask_to_stop()
        waiting = asyncio.create_task(_ended(workers))
        hurrying = asyncio.create_task(hurry.wait())
        config = self._settings.frontend
        limit_s = config.drain_delay_s + 2 * config.shutdown_grace_s + _STOP_GRACE_S
        try:
            await asyncio.wait(
                (waiting, hurrying), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not waiting.done():
                for each in workers:
                    each.ask_to_stop()
                await asyncio.wait({waiting}, timeout=_STOP_GRACE_S)
        finally:
            hurrying.cancel()
            waiting.cancel()
        return sum(each.cut for each in workers)

    async def close(self) -> None:
        """Stop everything: first the workers, then what they rely on."""
        self._leaving = True
        self._token.withdraw()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        grace_s = self._settings.frontend.shutdown_grace_s + _STOP_GRACE_S
        await asyncio.gather(*(each.stop(grace_s) for each in self._children[1:]))
        for each in self._children[:1]:
            await each.stop(_STOP_GRACE_S)
        self._children = []
        await stop_emulators(self._emulators)
        self._emulators = []
        for port in self._ports:
            port.close()
        self._ports = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _start(self) -> None:
        config, frontend = self._settings.fleet, self._settings.frontend
        shares_port = frontend.shares_port(self._token.token)
        clients = HeldPort(frontend.host, frontend.port)
        self._ports.append(clients)
        admin_port = 0
        if not shares_port:
            self._ports.append(HeldPort(frontend.admin_host, frontend.admin_port_wanted()))
            admin_port = self._ports[-1].port
        self._folder = _runtime_folder()
        if config.emulate:
            self._emulators = await launch_emulators(
                [f"instance-{number}" for number in range(config.emulate)],
                self._secret,
                [*self._emulator_args, "--speed", str(config.speed)],
                start_timeout_s=config.start_timeout_s,
            )
        self._children = [
            Child(
                Setup(
                    number,
                    self._settings,
                    self._folder,
                    self._secret,
                    self._token.token,
                    tuple(each.url for each in self._emulators),
                    clients.port,
                    admin_port,
                    shares_port,
                    FleetClock(config.speed).now_s(),
                )
            )
            for number in range(frontend.workers + 1)
        ]
        timeout_s = START_TIMEOUT_S + config.start_timeout_s
        scheduler, *workers = self._children
        await scheduler.start(timeout_s)
        await asyncio.gather(*(each.start(timeout_s) for each in workers))
        await scheduler.stand_by()
        scheme = "https" if frontend.tls_cert_file else "http"
        self.url = f"{scheme}://{reachable(frontend.host)}:{clients.port}"
        self.admin_url = scheduler.told["admin_url"] or self.url
        self._token.publish(self.admin_url, self.url)
        self._keeping = [spawn(self._keep(each), each.setup.name) for each in self._children]

    async def _keep(self, child: Child) -> None:
        """Start a child again whenever it ends, less eagerly the sooner it does."""
        loop = asyncio.get_running_loop()
        pause_s, name, timeout_s = _RESTART_MIN_S, child.setup.name, START_TIMEOUT_S
        while True:
            began = loop.time()
            status = await child.wait()
            if self._leaving:
                return
            if loop.time() - began >= _LIVED_S:
                pause_s = _RESTART_MIN_S
            log.warning(
                "process_died process=%s status=%d effect=%s restarts_in_s=%g",
                *(name, status, _effect(child.setup), pause_s),
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RESTART_MAX_S)
            try:
                await child.start(timeout_s)
            except Exception as error:
                log.error("process_not_restarted process=%s reason=%s", name, error)
            else:
                log.warning("process_restarted process=%s pid=%d", name, child.told["ready"])
                if child is self._children[0]:
                    await child.stand_by()


async def _ended(children: Sequence[Child]) -> None:
    await asyncio.gather(*(each.wait() for each in children))


def _runtime_folder() -> Path:
    """Make a folder for sockets that only this user may enter. Raises ConfigError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="llumnix-"))
    except OSError as error:
        raise ConfigError(
            "workers need a folder for their sockets, and none can be written to: give the process "
            "a /tmp, or name a folder with TMPDIR"
        ) from error
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        raise ConfigError(f"{folder} is too long a name for sockets; name a folder with TMPDIR")
    return folder


def _effect(setup: Setup) -> str:
    return "its own streams broke" if setup.number else "workers place by fewest in flight"
