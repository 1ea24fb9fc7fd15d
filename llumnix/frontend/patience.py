"""How long a stream waits for bytes before another instance is tried: from what was observed.

Pure: time is given, in wall seconds. Two questions. How long is too long? The longest usual wait
for a first byte, by class and length of prompt, and the usual pause between tokens, by class, times
a factor, and never less than a floor. And what then? A silent stream is moved if its instance is
silent as a whole and another can take it. Where other streams of the instance flow, or its engine
is seen to step, this one is queued or preempted: it waits ten times as long, and few are moved at
once, since a fleet without room would only be loaded more.
"""

import enum
from collections import deque
from dataclasses import dataclass

from policies.types import RequestId

FIRST_BYTE_FACTOR = 3.0
GAP_FACTOR = 10.0
_QUANTILE = 0.99
_REMEMBERED = 200
_PREFILL_S_PER_TOKEN = 0.001
"""Allowed on top of the floor while nothing was observed: a thousand tokens a second."""
_FLOWING_FACTOR = 10.0
_ALONE_S = 60.0
_ALONE_FACTOR = 10.0
_MOVES_AT_ONCE = 4


class _Waits:
    """The latest waits of one kind, and their 99th percentile."""

    __slots__ = ("_latest", "_quantile_s", "_stale")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_REMEMBERED)
        self._quantile_s = 0.0
        self._stale = 0

    def saw(self, wait_s: float) -> None:
        self._latest.append(wait_s)
        self._stale += 1

    def usual_s(self) -> float:
        """Return what nearly all waits were below; 0 while there were none."""
        if self._stale:
            ordered = sorted(self._latest)
            self._quantile_s = ordered[int(_QUANTILE * (len(ordered) - 1))]
            self._stale = 0
        return self._quantile_s


class Verdict(enum.Enum):
    """What to do about a silent stream."""

    WAIT = enum.auto()
    MOVE = enum.auto()
    """Try another instance; this one may merely be slow."""
    GIVE_UP = enum.auto()
    """It has been too long by any measure."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A stream that brings nothing: since when, and what else is known.

    `usual_s` is how long is too long, `ceiling_s` too long by any measure. `flows` says whether its
    instance is seen to work, `elsewhere` whether another instance could go on.
    """

    silent_s: float
    usual_s: float
    ceiling_s: float
    flows: bool
    elsewhere: bool


class Patience:
    """What all streams of a frontend have taught it about waiting."""

    def __init__(self) -> None:
        self._first_bytes: dict[tuple[int, int], _Waits] = {}
        self._gaps: dict[int, _Waits] = {}
        self._moving: set[RequestId] = set()

    def saw_first_byte(self, class_index: int, prompt_tokens: int, wait_s: float) -> None:
        """Note how long an instance took to say something to a request."""
        key = class_index, prompt_tokens.bit_length()
        self._first_bytes.setdefault(key, _Waits()).saw(wait_s)

    def saw_gap(self, class_index: int, gap_s: float) -> None:
        """Note the mean time between the tokens of a stream that has ended."""
        self._gaps.setdefault(class_index, _Waits()).saw(gap_s)

    def first_byte_s(self, class_index: int, prompt_tokens: int, floor_s: float) -> float:
        """Return how long a first byte may take. What shorter prompts took, longer ones may."""
        size = prompt_tokens.bit_length()
        usual_s = max(
            (
                waits.usual_s()
                for (of_class, of_size), waits in self._first_bytes.items()
                if of_class == class_index and of_size <= size
            ),
            default=0.0,
        )
        return max(floor_s + _PREFILL_S_PER_TOKEN * prompt_tokens, FIRST_BYTE_FACTOR * usual_s)

    def gap_s(self, class_index: int, own_s: float, floor_s: float) -> float:
        """Return how long a stream may pause; `own_s` is its own mean time between tokens."""
        waits = self._gaps.get(class_index)
        usual_s = waits.usual_s() if waits is not None else 0.0
        return max(floor_s, GAP_FACTOR * max(own_s, usual_s))

    def judge(self, request_id: RequestId, quiet: Quiet) -> Verdict:
        """Decide about a silent stream; one that is to move counts as moving until `settled`."""
        alone_s = max(_ALONE_S, _ALONE_FACTOR * quiet.usual_s)
        longest_s = quiet.ceiling_s if quiet.flows else min(quiet.ceiling_s, alone_s)
        if quiet.silent_s >= longest_s:
            return Verdict.GIVE_UP
        if not quiet.elsewhere:
            return Verdict.WAIT
        may_s = quiet.usual_s * (_FLOWING_FACTOR if quiet.flows else 1.0)
        if quiet.silent_s < may_s or (quiet.flows and len(self._moving) >= _MOVES_AT_ONCE):
            return Verdict.WAIT
        self._moving.add(request_id)
        return Verdict.MOVE

    def settled(self, request_id: RequestId) -> None:
        """Note that a request has produced something, or has ended."""
        self._moving.discard(request_id)
