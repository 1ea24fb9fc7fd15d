"""What an operator asks of a running service, by signals."""

import asyncio
import signal


class Signals:
    """SIGINT or SIGTERM asks to stop, a second one to hurry; SIGHUP asks to read settings again.

    Each is an event to wait for; whoever has done what `reload` asks for clears it.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.reload = asyncio.Event()

    def listen(self) -> None:
        """Take the signals from now on; needs the running event loop of the main thread."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self.asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def asked_to_stop(self) -> None:
        """Stop; the second time, hurry."""
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()

    async def next(self) -> asyncio.Event:
        """Wait for `stop` or `reload`, and return which it is; stopping comes first."""
        waits = [asyncio.create_task(each.wait()) for each in (self.stop, self.reload)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return self.stop if self.stop.is_set() else self.reload
