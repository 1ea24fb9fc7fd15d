"""How long a peer that used to send something has been silent, and whether that is too long.

Pure: time is given. Our own delays are not the peer's silence: what it sent lies unread meanwhile.
"""

_GAPS = 4.0
"""How many of its longest usual pauses a peer may be silent."""
_AT_MOST = 5.0
"""How many times the limit these may amount to: a peer that was slow does not become immortal."""
_HALVED_S = 30.0
"""After so long, a long pause counts half: a machine that was busy once may be idle now."""


class Usual:
    """The longest pause seen lately; it shrinks with time. Times are wall seconds."""

    __slots__ = ("_at_s", "_longest_s")

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._at_s = 0.0

    def saw(self, pause_s: float, now_s: float) -> None:
        """Note a pause that has just ended."""
        self._longest_s = max(pause_s, self.longest_s(now_s))
        self._at_s = now_s

    def longest_s(self, now_s: float) -> float:
        """Return the longest of them, less the further back it was."""
        return float(self._longest_s * 0.5 ** ((now_s - self._at_s) / _HALVED_S))


class Silence:
    """Watches one peer. `limit_s` is how long it may be silent, longer if it usually pauses long.

    Call `heard` for whatever it sends, and `check` at least every `tick_s`.
    """

    def __init__(self, limit_s: float, now_s: float) -> None:
        self.tick_s = limit_s / 8
        self._limit_s = limit_s
        self._heard_at_s = now_s
        self._checked_at_s = now_s
        self._excused_s = 0.0
        self._usual = Usual()

    def heard(self, now_s: float) -> None:
        """Note that the peer sent something."""
        self._usual.saw(now_s - self._heard_at_s - self._excused_s, now_s)
        self._heard_at_s = now_s
        self._excused_s = 0.0

    def silent_s(self, now_s: float) -> float:
        """Return how long it has sent nothing, less the time when we could not have noticed."""
        return now_s - self._heard_at_s - self._excused_s

    def limit_s(self, now_s: float) -> float:
        """Return how long it may be silent now."""
        usual_s = _GAPS * self._usual.longest_s(now_s)
        return max(self._limit_s, min(usual_s, _AT_MOST * self._limit_s))

    def check(self, now_s: float) -> bool:
        """Return whether it has been silent for too long.

        If this comes late, so has everything else here: the delay is not counted.
        """
        late_s = now_s - self._checked_at_s - 2 * self.tick_s
        self._checked_at_s = now_s
        if late_s > 0:
            self._excused_s += min(late_s, now_s - self._heard_at_s)
        return self.silent_s(now_s) >= self.limit_s(now_s)
