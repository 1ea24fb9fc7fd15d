"""How far an emulation falls behind its own clock, which decides whether a run is valid."""

from collections import deque
from statistics import median

_KEPT_STEPS = 16_384


class LagMeter:
    """Compares the completion times of steps with their due times, in wall seconds.

    A step is late when it completed more than one mean decode step after its scheduled end.
    Percentiles are over the most recent steps, counts and maximum over all.
    """

    def __init__(self, decode_step_s: float) -> None:
        self.steps = 0
        self.late_steps = 0
        self.max_s = 0.0
        self._lags_s: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._decode_steps_s: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._decode_count = 1
        self._decode_sum_s = decode_step_s  # a first guess, until steps are measured

    def record(self, lag_s: float, step_s: float, *, decode_only: bool) -> None:
        """Record one step: how late it completed, and its scheduled duration."""
        if decode_only:
            self._decode_count += 1
            self._decode_sum_s += step_s
            self._decode_steps_s.append(step_s)
        self.steps += 1
        self.late_steps += lag_s > self.mean_decode_step_s
        self.max_s = max(self.max_s, lag_s)
        self._lags_s.append(lag_s)

    @property
    def mean_decode_step_s(self) -> float:
        """Return the mean scheduled duration of a step that only decodes."""
        return self._decode_sum_s / self._decode_count

    @property
    def p50_decode_step_s(self) -> float:
        """Return the median scheduled duration of a step that only decodes."""
        return median(self._decode_steps_s) if self._decode_steps_s else self.mean_decode_step_s

    @property
    def p99_s(self) -> float:
        """Return the 99th percentile of the lateness of recent steps."""
        lags_s = sorted(self._lags_s)
        return max(0.0, lags_s[len(lags_s) * 99 // 100]) if lags_s else 0.0
