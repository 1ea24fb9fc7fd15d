"""A child's end of the pipe to its supervisor: what to do next, and how it went."""

import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any

from llumnix.processes.signals import Signals
from llumnix.workers.setup import STOP, Settings, read_message


class Parent:
    """Takes orders from the supervisor, and answers it; the process ends with the supervisor.

    Signals are for the supervisor alone: some that stop a service are sent to all its processes,
    such as those of systemd, and a child that heeded them would take the second for haste.
    """

    def __init__(self, descriptor: int) -> None:
        self.asked = Signals()
        self._descriptor = descriptor
        self._settings: asyncio.Queue[Settings] = asyncio.Queue(maxsize=100)

    def listen(self) -> None:
        """Take what comes from now on; needs the running event loop."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(name, _ignore)
        threading.Thread(target=self._read, args=(loop,), daemon=True, name="parent").start()

    async def next_settings(self) -> Settings:
        """Wait until other settings are to be applied; answer with `tell`."""
        return await self._settings.get()

    def tell(self, **what: Any) -> None:
        """Say something to the supervisor, in one line."""
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                message = read_message(self._descriptor)
                if message == STOP:
                    loop.call_soon_threadsafe(self.asked.asked_to_stop)
                else:
                    loop.call_soon_threadsafe(self._settings.put_nowait, message)
        except (EOFError, OSError):
            os._exit(0)  # whoever started us is gone
        except RuntimeError:
            return  # the loop is closed: we are on our way out


def _ignore() -> None:
    """Do nothing."""
