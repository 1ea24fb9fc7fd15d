"""Draining an instance laid out in columns."""

from collections.abc import Sequence

from policies.types import RequestId, RequestView
from simulator.kernel.hooks import ColumnHooks
from simulator.kernel.state import (
    BY_CLASS,
    CLASS_COLUMNS,
    CLASSES,
    DETACHED_COUNT,
    GONE,
    HEAD,
    NEXT,
    ORDER,
    OUT,
    PLACE,
    QUEUE_LENGTH,
    QUEUED,
    ROW,
    SIZE,
    TERMINATING,
)


class DrainedHooks(ColumnHooks):
    """`ColumnHooks` of an instance that may be drained."""

    def requests(self) -> Sequence[RequestView]:
        """See EngineHooks; during a drain, waiting requests are listed too, by arrival."""
        running = super().requests()
        if not self.state.col[TERMINATING][self._get(ROW)]:
            return running
        return [*running, *(self._view(r) for r in sorted(self._line(), key=self._order))]

    def requeue(self, request_id: RequestId) -> bool:
        """See EngineHooks; `simulator.engine.views.requeueable`."""
        self.settle()
        req, r = self.state.req, self._names.position(request_id)
        if not self._here(r) or req[PLACE][r] != QUEUED or req[OUT][r]:
            return False
        self._kernel.line_remove(self.state, self.at, r)
        req[PLACE][r] = GONE
        self._names.requeued(r)
        return True

    def set_terminating(self, on: bool) -> None:
        """See EngineHooks; the scheduler sees the drain from now on."""
        self.state.col[TERMINATING][self._get(ROW)] = int(on)

    @property
    def empty(self) -> bool:
        """Whether no request waits, runs, or is about to leave here."""
        self.settle()
        return not (self._get(SIZE) or self._get(QUEUE_LENGTH) or self._get(DETACHED_COUNT))

    def _line(self) -> list[int]:
        """List the queued requests, the most urgent class first."""
        line = []
        for of_class in range(self.state.fleet[CLASSES]):
            r = int(self.state.ins[BY_CLASS + CLASS_COLUMNS * of_class + HEAD][self.at])
            while r >= 0:
                line.append(r)
                r = int(self.state.req[NEXT][r])
        return line

    def _order(self, r: int) -> int:
        return int(self.state.req[ORDER][r])
