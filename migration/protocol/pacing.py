"""How much KV the next stage copies, and when copying while decoding no longer pays."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

SMOOTHING = 0.4
NEGLIGIBLE_STEPS = 0.1
"""A remainder predicted to take less than this share of a decode step is sent at once.

The paper stops copying live at a remainder of one step. But a remainder of up to a step is a pause
of up to a step, where one more live stage leaves only what one step grows: measured at 256 tokens
of 128 KiB, 6 ms instead of 41 (benchmarks/RESULTS.md).
"""
IDLE_S = 2.0
STEPS_AVERAGED = 4
SHORT_TAIL_TOKENS = 32
"""So many tokens cost a decoding batch little more than one does (two blocks of most GPUs')."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy blocks [first, first + n) while the request keeps decoding."""

    first_block: int
    n_blocks: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Remove the request from the batch and copy the rest; `n_blocks` as of now."""

    n_blocks: int


def tail_is_copied(
    *,
    tail_tokens: int,
    block_tokens: int,
    block_bytes: int,
    bandwidth: "Bandwidth",
    step_s: float,
) -> bool:
    """Whether the last tokens' KV reaches the destination faster by copying than by recomputing.

    A few tokens are computed within the destination's first step, which happens in any case, for
    about the time of one more step. A longer tail is always copied.
    """
    copy_s = bandwidth.sending_seconds_for(blocks_for(tail_tokens, block_tokens) * block_bytes)
    return tail_tokens > SHORT_TAIL_TOKENS or copy_s is None or not step_s or copy_s <= step_s


class Average:
    """An exponentially weighted average; None until something was observed."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def observe(self, sample: float) -> None:
        """Let the average move towards a sample."""
        old = sample if self.value is None else self.value
        self.value = old + SMOOTHING * (sample - old)


class Bandwidth:
    """The measured speed of the link to one destination, from stage begun to stage acknowledged.

    This includes the delay of an engine that spreads its copies over steps; the last blocks of a
    request are not spread, so for them the sending alone is measured as well.
    """

    __slots__ = ("_seconds_per_byte", "_sending_seconds_per_byte")

    def __init__(self) -> None:
        self._seconds_per_byte = Average()
        self._sending_seconds_per_byte = Average()

    def observe_sending(self, n_bytes: int, seconds: float) -> None:
        """Learn from a frame that took `seconds` to send."""
        if n_bytes > 0 and seconds > 0:
            self._sending_seconds_per_byte.observe(seconds / n_bytes)

    def sending_seconds_for(self, n_bytes: int) -> float | None:
        """Predict how long sending `n_bytes` takes; None while nothing was measured."""
        if self._sending_seconds_per_byte.value is None:
            return None
        return n_bytes * self._sending_seconds_per_byte.value

    def observe(self, n_bytes: int, seconds: float) -> None:
        """Learn from a stage that took `seconds` for `n_bytes`."""
        if n_bytes > 0 and seconds > 0:
            self._seconds_per_byte.observe(seconds / n_bytes)

    def seconds_for(self, n_bytes: int) -> float | None:
        """Predict how long `n_bytes` take; None while nothing was measured."""
        if self._seconds_per_byte.value is None:
            return None
        return n_bytes * self._seconds_per_byte.value


class StepTime:
    """The measured duration of an engine step, in wall seconds; pauses do not count as steps.

    The mean of the last few: as steady as an exponential average, and a simulator that skips steps
    can still compute it without walking through them.
    """

    __slots__ = ("_ends_s",)

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=STEPS_AVERAGED + 1)

    def stepped(self, now_s: float) -> None:
        """Note that a step ended now."""
        if self._ends_s and now_s - self._ends_s[-1] >= IDLE_S:
            self._ends_s.clear()
        self._ends_s.append(now_s)

    def value_s(self) -> float:
        """Return the mean; 0 while unknown, so that nothing counts as shorter than a step."""
        return mean_step_s(self._ends_s)


def mean_step_s(ends_s: Sequence[float]) -> float:
    """Average steps by when each ended, one after the other; 0 for fewer than two."""
    return (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1) if len(ends_s) > 1 else 0.0


def blocks_for(tokens: int, block_tokens: int) -> int:
    """Count the blocks that hold `tokens`, the last one possibly partial."""
    return -(-tokens // block_tokens)


def next_stage(
    *,
    stage: int,
    max_stages: int,
    copied_blocks: int,
    kv_tokens: int,
    block_tokens: int,
    block_bytes: int,
    bandwidth: Bandwidth,
    step_s: float,
) -> Copy | Finish:
    """Decide what stage number `stage` does.

    Full blocks never change and are copied live; the last, partial one is left to the end. The end
    comes when no block has filled up since, when the rest is predicted to take next to no time, or
    at the stage limit.
    """
    full_blocks = kv_tokens // block_tokens
    all_blocks = blocks_for(kv_tokens, block_tokens)
    rest_s = bandwidth.seconds_for((all_blocks - copied_blocks) * block_bytes)
    if full_blocks <= copied_blocks or stage >= max_stages:
        return Finish(all_blocks)
    if rest_s is not None and rest_s < NEGLIGIBLE_STEPS * step_s:
        return Finish(all_blocks)
    return Copy(copied_blocks, full_blocks - copied_blocks)
