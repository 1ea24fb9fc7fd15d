"""Reading the settings again while serving: what changes at once, and what needs a restart.

A reload that cannot be carried out, for whatever reason, changes nothing.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from llumnix.config import HOMES, Config
from llumnix.errors import ConfigError
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.logs.config import LogConfig
from llumnix.logs.setup import configure
from policies.registry import PolicyError
from policies.scheduler import SchedulerConfig

log = logging.getLogger(__name__)

LIVE = (
    *(
        f"fleet.{each.name}"
        for each in dataclasses.fields(FleetConfig)
        if each.name.startswith("instance")
    ),
    "frontend.allow_paths",
    "frontend.base_path",
    "frontend.claim_patience_s",
    "frontend.cors_origins",
    "frontend.drain_delay_s",
    "frontend.helper_timeout_s",
    "frontend.idle_timeout_s",
    "frontend.max_attempts",
    "frontend.queue_limit",
    "frontend.queue_timeout_s",
    "frontend.retry_after_s",
    "frontend.shutdown_grace_s",
    "logs",
    "scheduler.dispatch",
    "scheduler.ledger_timeout_s",
    "scheduler.max_age_s",
    "scheduler.migration",
    "scheduler.moves",
    "scheduler.rebalance",
)
"""Settings, or sections of them, that change without a restart; open requests keep the old ones."""

_IGNORED = ("simulator",)


@dataclass(frozen=True, slots=True)
class Change:
    """What a new configuration changes: `config` is in force now, but for `restart`."""

    config: Config
    live: tuple[str, ...]
    restart: tuple[str, ...]


def change(old: Config, new: Config) -> Change:
    """Compare the settings in force with new ones; raises ValueError if they cannot be combined."""
    combined = _combined(old, new, "")
    return Change(combined, tuple(_different(old, combined)), tuple(_different(combined, new)))


class Reconfigurable(Protocol):
    """A service whose settings can change while it serves."""

    async def reconfigure(
        self, fleet: FleetConfig, scheduler: SchedulerConfig, frontend: FrontendConfig
    ) -> None:
        """Apply changed settings; raises an error, before anything has changed, if it cannot."""

    async def log_as(self, logs: LogConfig) -> None:
        """Have all other processes of the service write their log in this way."""


class Reloader:
    """Reads the configuration again and carries out what has changed."""

    def __init__(self, read: Callable[[], Config], config: Config, service: Reconfigurable) -> None:
        self.config = config
        self._read = read
        self._service = service

    async def reload(self) -> None:
        """Read and apply; say in the log what changed, what needs a restart, or what is wrong."""
        try:
            told = change(self.config, self._read())
            new = told.config
            await self._service.reconfigure(new.fleet, new.scheduler, new.frontend)
        except (ConfigError, PolicyError, ValueError) as error:
            log.error("reload_refused reason=%s", error)
            return
        self.config = told.config
        configure(told.config.logs, background=True)
        await self._service.log_as(told.config.logs)
        level = logging.WARNING if told.restart else logging.INFO
        log.log(level, "reloaded changed=%s needs_restart=%s", list(told.live), list(told.restart))


def _is_live(path: str) -> bool:
    return any(path == live or path.startswith(live + ".") for live in LIVE)


def _combined(old: Any, new: Any, path: str) -> Any:
    """Return the old settings with the new values of those that are live."""
    if _is_live(path):
        return new
    if not dataclasses.is_dataclass(old) or isinstance(old, type):
        return old
    changes = {
        item.name: _combined(getattr(old, item.name), getattr(new, item.name), _below(path, item))
        for item in dataclasses.fields(old)
    }
    return dataclasses.replace(old, **changes)


def _different(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Name the settings that differ, by their keys."""
    if path in HOMES or path in _IGNORED or old == new:
        return
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        for item in dataclasses.fields(old):
            yield from _different(
                getattr(old, item.name), getattr(new, item.name), _below(path, item)
            )
    else:
        yield path


def _below(path: str, item: dataclasses.Field[Any]) -> str:
    return f"{path}.{item.name}" if path else item.name
