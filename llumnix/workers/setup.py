"""What a child process is told by its supervisor, over its standard input.

Both ends are this program, and the pipe is between a parent and its child: that is why what comes
may be unpickled. No secret stands in arguments or the environment.
"""

import os
import pickle
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig
from llumnix.logs.config import LogConfig
from policies.scheduler import SchedulerConfig

_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Settings:
    """The sections of the configuration that children go by."""

    fleet: FleetConfig
    scheduler: SchedulerConfig
    frontend: FrontendConfig
    logs: LogConfig


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child needs to begin. `number` is 0 for the scheduler's process, else a worker's.

    `folder` holds the sockets, only for this user. `emulated` are URLs of instances that were
    started for the fleet. `port` and `admin_port` are held by the supervisor; `shares_port` says
    that the admin API is served on the clients' port. `epoch_s` is when the fleet's clock began.
    """

    number: int
    settings: Settings
    folder: Path
    secret: bytes
    admin_token: str
    emulated: tuple[str, ...]
    port: int
    admin_port: int
    shares_port: bool
    epoch_s: float

    @property
    def name(self) -> str:
        """Return what the process is called in logs."""
        return f"worker-{self.number}" if self.number else "scheduler"

    @property
    def link_path(self) -> str:
        """Return where the scheduler's process waits for frontends."""
        return str(self.folder / "scheduler.sock")

    @property
    def admin_path(self) -> str:
        """Return where the scheduler's process answers what workers are asked on its behalf."""
        return str(self.folder / "admin.sock")

    def clear_paths(self) -> None:
        """Remove the sockets of the scheduler's process before this one."""
        for path in (self.link_path, self.admin_path):
            Path(path).unlink(missing_ok=True)

    def with_settings(self, settings: Settings) -> "Setup":
        """Return the setup of a child that begins with other settings."""
        return replace(self, settings=settings)


STOP: Final = "stop"
"""The message that asks a child to stop; said twice, to hurry."""


def packed(message: object) -> bytes:
    """Encode a message to a child."""
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


def read_message(descriptor: int) -> Any:
    """Wait for a message from the parent; raises EOFError when the parent is gone."""
    (length,) = _LENGTH.unpack(_exactly(descriptor, _LENGTH.size))
    return pickle.loads(_exactly(descriptor, length))  # noqa: S301 - from our parent, see above


def read_setup(descriptor: int) -> Setup:
    """Wait for the first message. Raises EOFError."""
    return cast("Setup", read_message(descriptor))


def _exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
