"""Writing lines in a thread of its own, so that a slow reader of stderr holds up no stream."""

import logging
import queue
import threading
from typing import TextIO

_AT_ONCE = 200
_PATIENCE_S = 2.0


class BackgroundHandler(logging.Handler):
    """Formats a line at once and has a thread write it.

    At most `bound` lines wait to be written: while a reader stands still, further ones are dropped,
    and their number is logged once it reads again. What waits at the end is given two seconds.
    """

    def __init__(self, stream: TextIO, bound: int = 10_000) -> None:
        super().__init__()
        self._stream = stream
        self._bound = bound
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, daemon=True, name="log writer")
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over; never waits."""
        try:
            line = self.format(record)
        except Exception:  # a line that cannot be formatted must not end what logged it
            self.handleError(record)
            return
        if self._lines.qsize() < self._bound:
            self._lines.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join(_PATIENCE_S)
        super().close()

    def _write(self) -> None:
        going = True
        while going:
            lines = [self._lines.get()]
            while len(lines) < _AT_ONCE and not self._lines.empty():
                lines.append(self._lines.get())
            going = None not in lines
            told = [line for line in lines if line is not None]
            if self._dropped:
                count, self._dropped = self._dropped, 0
                told.append(self.format(_dropped(count)))
            try:
                self._stream.write("".join(line + "\n" for line in told))
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more
                continue


def _dropped(count: int) -> logging.LogRecord:
    return logging.LogRecord(
        __name__, logging.WARNING, __file__, 0, "log_lines_dropped count=%d", (count,), None
    )
