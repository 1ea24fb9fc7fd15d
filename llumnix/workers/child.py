"""A child process as its supervisor has it: started, told, waited for."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Any, Final

from llumnix.errors import LaunchError
from llumnix.workers.setup import STOP, Settings, Setup, packed

_COMMAND: Final = (sys.executable, "-m", "llumnix.workers")
_RELOAD_TIMEOUT_S: Final = 30.0


class Child:
    """One process; `start` starts it, and it exits if we do.

    After `stand_by` another process has loaded the program and waits to be told what it is: it
    follows on one that has died a second or two sooner.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._spare: asyncio.subprocess.Process | None = None
        self.cut = 0
        self.told: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=100)

    async def start(self, timeout_s: float) -> None:
        """Start it and wait until it is ready. Raises LaunchError."""
        process, self._spare = self._spare, None
        if process is None or process.returncode is not None:
            process = await _launch()
        self._process = process
        self._replies = asyncio.Queue(maxsize=100)
        assert process.stdin is not None, "it is a pipe"
        process.stdin.write(packed(self.setup))
        self._reading = asyncio.create_task(self._read(process))
        try:
            async with asyncio.timeout(timeout_s):
                self.told = await self._replies.get()
        except TimeoutError:
            self.told = {"error": f"it was not ready within {timeout_s:g} s"}
        except BaseException:
            await self.stop(0.0)
            raise
        if "ready" not in self.told:
            await self.stop(0.0)
            raise LaunchError(f"{self.setup.name} did not start: {self.told.get('error')}")

    async def stand_by(self) -> None:
        """Have another process at hand for the next `start`; do without if it cannot be started."""
        if self._spare is None:
            with suppress(OSError):
                self._spare = await _launch()

    async def wait(self) -> int:
        """Wait until it has ended; return its status."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return status

    async def apply(self, settings: Settings) -> str | None:
        """Have it apply other settings; return why it does not, None if it does."""
        process = self._process
        self.setup = self.setup.with_settings(settings)
        if process is None or process.stdin is None or process.returncode is not None:
            return None  # the next one begins with them
        process.stdin.write(packed(settings))
        try:
            async with asyncio.timeout(_RELOAD_TIMEOUT_S):
                told = await self._replies.get()
        except TimeoutError:
            return f"{self.setup.name} does not answer"
        reason = told.get("refused")
        return None if reason is None else str(reason)

    def ask_to_stop(self) -> None:
        """Ask it to stop; asked twice, it hurries."""
        process = self._process
        if process is not None and process.stdin is not None and process.returncode is None:
            process.stdin.write(packed(STOP))

    async def stop(self, grace_s: float) -> None:
        """End it, by force after the grace period."""
        spare, self._spare = self._spare, None
        if spare is not None:
            await _end(spare)
        process = self._process
        if process is not None:
            self.ask_to_stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await process.wait()
            await _end(process)
        if self._reading is not None:
            await self._reading
            self._reading = None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it is a pipe"
        async for line in process.stdout:
            with suppress(ValueError):
                told = dict(json.loads(line))
                if "cut" in told:
                    self.cut = int(told["cut"])
                elif not self._replies.full():
                    self._replies.put_nowait(told)
        if not self._replies.full():
            self._replies.put_nowait({"error": "it exited; see its log lines above"})


async def _launch() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A terminal's Ctrl-C is for the supervisor, which tells its children in order.
        start_new_session=True,
        env={**os.environ, "LLUMNIX_SECRET": "", "LLUMNIX_ADMIN_TOKEN": ""},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process by force, if it has not ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.stdin is not None:
        process.stdin.close()
