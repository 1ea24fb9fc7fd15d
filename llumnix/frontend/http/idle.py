"""Detect that a stream has stalled, at no cost per token: one lazy timer per stream."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_AGAIN_S = 0.5


class IdleWatch:
    """Calls `on_idle` after `limit_s` wall seconds without a touch, then twice a second.

    It is given how long nothing has come. To touch is to set `touched_at` to `time.monotonic()`: no
    call, no timer to move. `refresh` does so for those who touch nothing themselves. `limit_s` may
    be set at any time; it counts from the next look on.
    """

    __slots__ = ("_handle", "_on_idle", "limit_s", "refresh", "touched_at")

    def __init__(self, limit_s: float, on_idle: Callable[[float], None]) -> None:
        self.touched_at = time.monotonic()
        self.refresh: Callable[[], object] | None = None
        self.limit_s = limit_s
        self._on_idle = on_idle
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait(self.limit_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        # Whoever watches is watched for: without this only the collector would part the two.
        self._handle = self.refresh = None
        self._on_idle = _nobody

    def silent_s(self) -> float:
        """Return for how long nothing has come."""
        if self.refresh is not None:
            self.refresh()
        return time.monotonic() - self.touched_at

    def _wait(self, delay_s: float) -> None:
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._check)

    def _check(self) -> None:
        silent_s = self.silent_s()
        left_s = self.limit_s - silent_s
        if left_s <= 0:
            left_s = min(_AGAIN_S, self.limit_s)
            self._wait(left_s)
            self._on_idle(silent_s)
        else:
            self._wait(left_s)


def _nobody(_silent_s: float) -> None:
    """Do nothing: nobody watches any more."""
