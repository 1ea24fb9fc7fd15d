"""Progress of a run on stderr: a bar on a terminal, occasional lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 5.0


class RunProgress:
    """A context manager; call it with the number of requests done, in all, and in flight."""

    def __init__(self, label: str, console: Console | None = None) -> None:
        self.label = label
        self.console = console or Console(file=sys.stderr)
        self._bar = self._make_bar() if self.console.is_terminal else None
        self._task = self._bar.add_task(label, total=None, in_flight=0) if self._bar else None
        self._line_due_s = time.monotonic() + LINE_EVERY_S

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, in_flight: int) -> None:
        """Show the run's progress; cheap enough to call for every request."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, in_flight=in_flight)
        elif (now_s := time.monotonic()) >= self._line_due_s or (done == total):
            self._line_due_s = now_s + LINE_EVERY_S
            self.console.print(f"{self.label}: {done} of {total} done, {in_flight} in flight")

    def _make_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[in_flight]} in flight"),
            TimeElapsedColumn(),
            console=self.console,
            refresh_per_second=4,
        )
