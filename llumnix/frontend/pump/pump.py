"""The compiled pump on an event loop: passes streams on until they need Python."""

import asyncio
import ctypes
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llumnix.errors import ConfigError
from llumnix.frontend.pump.library import NotBuilt, load_library

log = logging.getLogger(__name__)


class Hide(enum.IntEnum):
    """What happens to token ids that the client did not ask for: `pump.c` has the same numbers."""

    NOTHING = 0
    NULLED = 1
    REMOVED = 2


class _Part(enum.IntEnum):
    KEPT = 0
    UNSENT = 1
    BODY = 2
    INPUT = 3


@dataclass(frozen=True, slots=True)
class Rest:
    """What a stream held when it stopped.

    `unsent` is to be written to the client as it is; `body` are bytes of events that were not
    passed on, and `raw` what followed on the instance's connection, with its chunks.
    """

    unsent: bytes
    body: bytes
    raw: bytes


class Keeper(Protocol):
    """Keeps what was passed on."""

    def add(self, data: bytes) -> None:
        """Append whole events, as the instance sent them."""


class Flow:
    """One stream that the pump passes on. `on_stop` is called when it needs Python."""

    __slots__ = ("_number", "_on_stop", "_pump", "keeper")

    def __init__(
        self, pump: "Pump", number: int, keeper: Keeper, on_stop: Callable[[], None]
    ) -> None:
        self._pump = pump
        self._number = number
        self._on_stop = on_stop
        self.keeper = keeper

    def last_at(self) -> float:
        """Return when something was last passed on, in wall seconds."""
        return self._pump.last_at(self._number)

    def settle(self) -> None:
        """Give the keeper what was passed on since it was last given something."""
        kept = self._pump.take(self._number, _Part.KEPT)
        if kept:
            self.keeper.add(kept)

    def stopped(self) -> None:
        """Note that the pump has stopped the stream."""
        self._on_stop()

    def leave(self) -> None:
        """Touch the instance's socket no more: it is about to be closed."""
        self._pump.leave(self._number)

    def end(self) -> Rest:
        """Take the stream back; the sockets are no longer touched."""
        self.settle()
        parts = [
            self._pump.take(self._number, part) for part in (_Part.UNSENT, _Part.BODY, _Part.INPUT)
        ]
        self._pump.forget(self._number)
        return Rest(*parts)


class Pump:
    """All streams that are being passed on; for use on one event loop. Raises NotBuilt."""

    def __init__(self) -> None:
        self._library = load_library()
        self._loop = asyncio.get_running_loop()
        self._pump = self._library.pump_new()
        if not self._pump:
            raise OSError("no memory or no file for the pump")
        self._fd = self._library.pump_fd(self._pump)
        self._stopped = self._library.pump_stopped(self._pump)
        self._full = self._library.pump_full(self._pump)
        self._run = self._library.pump_turn
        self._flows: dict[int, Flow] = {}
        self._loop.add_reader(self._fd, self._turn)

    def __len__(self) -> int:
        return len(self._flows)

    def begin(
        self,
        sockets: tuple[int, int],
        hide: Hide,
        keeper: Keeper,
        on_stop: Callable[[], None],
        *,
        plugged: bool,
        body: bytes = b"",
        raw: bytes = b"",
    ) -> Flow | None:
        """Pass on what comes at an instance's socket to a client's; None if it cannot be done.

        Nobody else may read the one or write to the other until the flow's `end`, or close the
        instance's before its `leave`. `body` and `raw`
        are what was read already of an event, and of a chunk.
        """
        number = self._library.pump_add(self._pump, *sockets, hide, plugged)
        if number < 0:
            return None
        for part, data in ((_Part.BODY, body), (_Part.INPUT, raw)):
            if data and not self._library.pump_put(self._pump, number, part, data, len(data)):
                self._library.pump_remove(self._pump, number)
                return None
        flow = self._flows[number] = Flow(self, number, keeper, on_stop)
        return flow

    def close(self) -> None:
        """Forget everything; flows must have ended."""
        self._loop.remove_reader(self._fd)
        self._library.pump_free(self._pump)
        self._flows.clear()

    def last_at(self, number: int) -> float:
        """Return when something of a stream was last passed on, in wall seconds."""
        last_at: float = self._library.pump_last_at(self._pump, number)
        return last_at

    def take(self, number: int, part: int) -> bytes:
        """Take what a stream holds of one kind."""
        size = self._library.pump_size(self._pump, number, part)
        if not size:
            return b""
        data = ctypes.string_at(self._library.pump_data(self._pump, number, part), size)
        self._library.pump_clear(self._pump, number, part)
        return data

    def leave(self, number: int) -> None:
        """Read no more of a stream."""
        self._library.pump_leave(self._pump, number)

    def forget(self, number: int) -> None:
        """End a stream."""
        del self._flows[number]
        self._library.pump_remove(self._pump, number)

    def _turn(self) -> None:
        if not self._run(self._pump):
            return
        full = self._full[: self._library.pump_n_full(self._pump)]
        stopped = self._stopped[: self._library.pump_n_stopped(self._pump)]
        for number in full:
            self._flows[number].settle()
        for number in stopped:
            self._flows[number].stopped()


def make_pump(wanted: str) -> Pump | None:
    """Return a pump as the setting wants it; None for Python.

    Raises ConfigError where it wants one that cannot be built.
    """
    if wanted == "python":
        return None
    try:
        return Pump()
    except NotBuilt as error:
        if wanted == "c":
            raise ConfigError(
                f"the pump cannot be built: {error}; install a C compiler, or set pump to auto"
            ) from error
        log.info("pump_in_python reason=%s", error)
        return None
