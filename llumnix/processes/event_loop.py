"""Run a server's coroutine, on uvloop if installed, until SIGINT or SIGTERM."""

import asyncio
import signal
from collections.abc import Coroutine

import uvloop


def run_async(main: Coroutine[object, object, None]) -> int:
    """Run to completion, or until a signal cancels it; return the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()

        async def supervised() -> None:
            task = asyncio.current_task()
            assert task is not None
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(name, task.cancel)
            await main

        try:
            runner.run(supervised())
        except asyncio.CancelledError:
            return 0
    return 0
