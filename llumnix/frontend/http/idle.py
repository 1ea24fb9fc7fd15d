"""Detect that a stream has stalled, at no cost per token: one lazy timer per stream."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class IdleWatch:
    """Calls `on_idle` after `limit_s` wall seconds without a touch, and keeps watching.

    To touch is to set `touched_at` to `time.monotonic()`: no call, no timer to move.
    """

    __slots__ = ("_handle", "_limit_s", "_on_idle", "touched_at")

    def __init__(self, limit_s: float, on_idle: Callable[[], None]) -> None:
        self.touched_at = time.monotonic()
        self._limit_s = limit_s
        self._on_idle = on_idle
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait(self._limit_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self, delay_s: float) -> None:
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        left_s = self.touched_at + self._limit_s - now
        if left_s <= 0:
            self.touched_at = now
            left_s = self._limit_s
            self._on_idle()
        self._wait(left_s)
