"""Warnings that come in floods: a few of each kind are logged, the rest are counted."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_KEYS = 1024


@dataclass(slots=True)
class _Window:
    began_s: float
    logged: int = 0
    dropped: int = 0


class BoundedLog:
    """Logs at most `most` warnings of a key in `window_s` wall seconds, and how many it dropped."""

    def __init__(
        self,
        log: logging.Logger,
        most: int = 5,
        window_s: float = 10.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._most = most
        self._window_s = window_s
        self._clock_s = clock_s
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def warning(self, key: str, text: str, *args: object) -> None:
        """Log a warning, unless there were too many of this key lately."""
        now_s = self._clock_s()
        window = self._windows.get(key)
        if window is None or now_s - window.began_s >= self._window_s:
            dropped = window.dropped if window else 0
            window = self._windows[key] = _Window(now_s)
            self._windows.move_to_end(key)
            if dropped:
                text, args = text + " suppressed=%d", (*args, dropped)
            while len(self._windows) > _KEYS:
                self._windows.popitem(last=False)
        if window.logged >= self._most:
            window.dropped += 1
            return
        window.logged += 1
        self._log.warning(text, *args)
