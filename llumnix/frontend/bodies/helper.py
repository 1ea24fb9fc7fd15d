"""Processes that do work on bodies for the event loop, which would stand still meanwhile.

A thread would not do: parsing JSON holds the interpreter's lock from beginning to end.
"""

import asyncio
import logging
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

R = TypeVar("R")

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-m", "llumnix.frontend.bodies.helper_process")
HEADER: Final = struct.Struct("!II")
"""Length of the pickled task, length of the body; in an answer, length of the result and 0."""

_SLICE_BYTES: Final = 256 * 1024
_STOP_TIMEOUT_S: Final = 5.0
_IDLE_S: Final = 60.0


class HelperFailed(Exception):  # noqa: N818 - an outcome, told to the client
    """The helper gave up on a body: it took too long, or too much memory."""


class Helpers:
    """A few helper processes, started when they are first needed.

    `timeout_s` bounds each task, in wall seconds; a helper that takes longer is replaced. They are
    stopped when none has been needed for `idle_s`.
    """

    def __init__(self, limit: int, timeout_s: float, idle_s: float = _IDLE_S) -> None:
        self._idle_s = idle_s
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(limit)
        self._idle: list[asyncio.subprocess.Process] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[..., R], body: bytes, *arguments: object) -> R:
        """Return `work(body, *arguments)`, computed by a helper; `work` is a module's function.

        Raises HelperFailed, and whatever the work raises.
        """
        # A client that leaves must not leave a helper with half a task: the task goes on alone.
        task = asyncio.create_task(self._run(pickle.dumps((work, arguments)), body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        result: R = await asyncio.shield(task)
        return result

    async def close(self) -> None:
        """Stop the helpers."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        idle, self._idle = self._idle, []
        for process in idle:
            await _stop(process)

    def _rest(self, process: asyncio.subprocess.Process) -> None:
        """Keep a helper for the next task, but not for ever: it may hold much memory."""
        self._idle.append(process)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._retire)

    def _retire(self) -> None:
        idle, self._idle = self._idle, []
        for process in idle:
            stopping = asyncio.create_task(_stop(process))
            self._tasks.add(stopping)
            stopping.add_done_callback(self._tasks.discard)

    async def _run(self, task: bytes, body: bytes) -> Any:
        async with self._free:
            process = self._idle.pop() if self._idle else await _start()
            try:
                async with asyncio.timeout(self._timeout_s):
                    ended, result = await _exchange(process, task, body)
            except BaseException as error:
                await _stop(process)
                if isinstance(error, TimeoutError | OSError | EOFError):
                    log.warning("body_helper_replaced reason=%s", type(error).__name__)
                    raise HelperFailed("the body takes too long to read") from error
                raise
            if ended:
                await _stop(process)
            else:
                self._rest(process)
        if isinstance(result, MemoryError):
            raise HelperFailed("the body takes too much memory to read")
        if isinstance(result, Exception):
            raise result
        return result


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def _exchange(
    process: asyncio.subprocess.Process, task: bytes, body: bytes
) -> tuple[bool, Any]:
    """Give a helper a task; return whether it ends now, and its result."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(HEADER.pack(len(task), len(body)) + task)
    view = memoryview(body)
    for at in range(0, len(body), _SLICE_BYTES):
        process.stdin.write(bytes(view[at : at + _SLICE_BYTES]))
        await process.stdin.drain()
    size, ended = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    return bool(ended), pickle.loads(await process.stdout.readexactly(size))  # noqa: S301 - our own


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.kill()
    async with asyncio.timeout(_STOP_TIMEOUT_S):
        await process.wait()
