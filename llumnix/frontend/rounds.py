"""Rounds of work that are asked for far more often than they need to be done.

A full fleet changes thousands of times a second. All that changes within a few milliseconds is
looked at in one round, a round never holds the event loop for long, and rounds together take a
bounded share of the time however slow one is.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

_SLICE_S = 0.004
"""How long a round may hold the event loop before it lets others run."""
SPACING_S = 0.01
"""How long at least is between two rounds."""
_SHARE = 4
"""Between two rounds there is this many times as long as one took."""
_LONGEST_PAUSE_S = 1.0
_AT_LEAST_EVERY_S = 0.25
"""Time alone may change what a round finds, and tells nobody."""


class Rounds:
    """Goes round when asked to, and now and then while there is something `left` to do.

    A round is an iterator: it may be paused after each step. Use it from one event loop.
    """

    def __init__(
        self,
        new_round: Callable[[], Iterator[None]],
        left: Callable[[], bool],
        spacing_s: float = SPACING_S,
    ) -> None:
        self._new_round = new_round
        self._left = left
        self._spacing_s = spacing_s
        self._timer: asyncio.Handle | None = None
        self._timer_at_s = 0.0
        self._asked = False
        self._running: Iterator[None] | None = None
        self._next_at_s = 0.0
        self._spent_s = 0.0
        self._ends: asyncio.Future[None] | None = None

    @property
    def due(self) -> bool:
        """Whether a round was asked for and has not ended."""
        return self._asked or self._running is not None

    def ask(self) -> None:
        """Have a round as soon as may be, if there is anything left to do."""
        if self._asked or not self._left():
            return
        self._asked = True
        if self._running is None:
            self._set_timer(self._next_at_s)

    def keep_on(self) -> None:
        """See to it that there is a round before long, asked for or not."""
        if self._timer is None and self._running is None:
            self._set_timer(asyncio.get_running_loop().time() + _AT_LEAST_EVERY_S)

    async def end(self, sooner: "asyncio.Future[Any] | None" = None) -> None:
        """Wait until the round that is due, if one is, has ended, or until something `sooner`."""
        if not self.due:
            return
        if self._ends is None:
            self._ends = asyncio.get_running_loop().create_future()
        ends = {self._ends} if sooner is None else {self._ends, sooner}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    def _set_timer(self, at_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer_at_s <= at_s:
                return
            self._timer.cancel()
        self._timer_at_s = at_s
        soon = at_s <= loop.time()
        self._timer = loop.call_soon(self._begin) if soon else loop.call_at(at_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._asked = False
        self._spent_s = 0.0
        self._running = self._new_round()
        self._go_on()

    def _go_on(self) -> None:
        assert self._running is not None
        began_s = now_s = time.monotonic()
        more = False
        try:
            for _ in self._running:
                now_s = time.monotonic()
                if now_s - began_s >= _SLICE_S:
                    more = True
                    break
        finally:
            self._spent_s += now_s - began_s
            if more:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self._end()

    def _end(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._running = None
        pause_s = max(self._spacing_s, min(_SHARE * self._spent_s, _LONGEST_PAUSE_S))
        self._next_at_s = now_s + pause_s
        if self._asked:
            self._set_timer(self._next_at_s)
        elif self._left():
            self._set_timer(now_s + max(pause_s, _AT_LEAST_EVERY_S))
        ends, self._ends = self._ends, None
        if ends is not None:
            ends.set_result(None)
