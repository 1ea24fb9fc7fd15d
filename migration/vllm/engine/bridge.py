"""Between two threads: the engine's, where vLLM calls us, and the agent's, where sockets are."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_SLICE_S = 0.0005


class Bridge:
    """Two mailboxes. Messages to the engine are read when vLLM next calls a hook of ours.

    An idle engine calls none: never send it anything that must happen without a request.
    """

    def __init__(self) -> None:
        self._to_engine: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = threading.Event()

    def join(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the agent's event loop; until then what is sent there is dropped."""
        self._loop = loop

    def to_engine(self, work: Callable[[], None]) -> None:
        """Call this on the engine's thread, in the order sent."""
        self._to_engine.append(work)
        self._news.set()

    def read(self) -> None:
        """Run what was sent to the engine; called on its thread."""
        while self._to_engine:
            self._to_engine.popleft()()

    def linger(self, longest_s: float, has_input: Callable[[], bool]) -> None:
        """Wait on the engine's thread for news from the agent's, or until vLLM itself has some.

        An engine that only waits for KV would otherwise spin.
        """
        until_s = time.monotonic() + longest_s
        while not (self._news.wait(_SLICE_S) or has_input() or time.monotonic() > until_s):
            pass
        self._news.clear()

    def ring(self) -> None:
        """End a `linger`, from any thread: there is something to do."""
        self._news.set()

    def to_agent(self, work: Callable[..., None], *args: Any) -> None:
        """Call this on the agent's thread, soon and in order; nothing if that has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(work, *args)
