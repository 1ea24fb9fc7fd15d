"""Between two threads: the engine's, where vLLM calls us, and the agent's, where sockets are."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Bridge:
    """Two letterboxes. Letters to the engine are read when vLLM next calls a hook of ours.

    An idle engine calls none: nothing may be sent there that must happen without a request.
    """

    def __init__(self) -> None:
        self._to_engine: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the agent's event loop; until then what is sent there is dropped."""
        self._loop = loop

    def to_engine(self, work: Callable[[], None]) -> None:
        """Have this done on the engine's thread, in the order sent."""
        self._to_engine.append(work)

    def read(self) -> None:
        """Do what was sent to the engine; called on its thread."""
        while self._to_engine:
            self._to_engine.popleft()()

    def to_agent(self, work: Callable[..., None], *args: Any) -> None:
        """Have this done on the agent's thread, soon and in order."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *args)
