"""Whether an engine stands still: requests run there, and it makes no progress.

Pure: time is given. What counts as progress is up to the caller: a count of steps, or whatever
numbers of a metrics page move as long as an engine does.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from llumnix.instances.condition.silence import Usual

_STEPS = 4.0
"""How many of its longest steps of late an engine may take for one."""
_LONGEST_S = 60.0
_CHUNK_TOKENS = 8192
_CHUNK_S = 1.0
"""A step that prefills so many tokens may take so much longer than one that only decodes."""
_WARM_UP = 2
_COLD = 3.0
"""Until it has been seen to make some steps, an engine may take so many times as long for one."""


@dataclass(frozen=True, slots=True)
class Motion:
    """What a report says of an engine.

    `still_s` is for how long it has stood still, 0 if that is no cause for suspicion; `moved` that
    it has made progress since the last report; `idle` that it runs nothing.
    """

    still_s: float = 0.0
    moved: bool = False
    idle: bool = False


class Standstill:
    """Watches one engine. `limit_s` is how long a step may take where none was seen to be slow."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._mark: Hashable = None
        self._since_s: float | None = None
        self._moves = 0
        self._usual = Usual()

    def observe(
        self, mark: Hashable, *, running: bool, now_s: float, prefill_tokens: int = 0
    ) -> Motion:
        """Note what a report says. `mark` changes with every step."""
        since_s, moved = self._since_s, self._mark is not None and mark != self._mark
        if moved and since_s is not None:
            self._moves += 1
            self._usual.saw(now_s - since_s, now_s)
        if moved or not running or since_s is None:
            self._mark = mark
            self._since_s = now_s if running else None
            return Motion(moved=moved, idle=not running)
        still_s = now_s - since_s
        if still_s < self._may_take_s(now_s, prefill_tokens):
            return Motion()
        return Motion(still_s)

    def _may_take_s(self, now_s: float, prefill_tokens: int) -> float:
        cold = _COLD if self._moves < _WARM_UP else 1.0
        chunk_s = _CHUNK_S * min(prefill_tokens, _CHUNK_TOKENS) / _CHUNK_TOKENS
        usual_s = min(_STEPS * self._usual.longest_s(now_s), _LONGEST_S)
        return max(self._limit_s * cold, usual_s) + chunk_s
