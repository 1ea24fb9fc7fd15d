"""Limits of a key: requests and tokens per minute, and requests at once. Pure: time is given.

Times are seconds of any one monotonic clock.
"""

import enum
from dataclasses import dataclass
from typing import Final

_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


class Dimension(enum.StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that a request would break. `wait_s` is None if waiting does not help."""

    dimension: Dimension
    limit: int
    wait_s: float | None


class Bucket:
    """A token bucket that holds a minute's worth and refills evenly; it may be overdrawn."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """Return what may be taken now; negative while a debt is being paid off."""
        if now_s > self._at_s:
            grown = self._level + (now_s - self._at_s) * self.per_minute / _MINUTE_S
            self._level = min(float(self.per_minute), grown)
            self._at_s = now_s
        return self._level

    def take(self, amount: float, now_s: float) -> None:
        """Take an amount, whether it is there or not; a negative one gives back."""
        self._level = min(float(self.per_minute), self.level(now_s) - amount)

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return how long it takes until an amount is there; infinite if it never is."""
        lacking = amount - self.level(now_s)
        if lacking <= 0:
            return 0.0
        if amount > self.per_minute or not self.per_minute:
            return float("inf")
        return lacking * _MINUTE_S / self.per_minute


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit, and the time until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


class Allowance:
    """What one key has used so far of its limits."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self.open = 0
        self._requests = _bucket(limits.requests_per_minute, now_s)
        self._tokens = _bucket(limits.tokens_per_minute, now_s)

    def enter(self, now_s: float) -> Exceeded | None:
        """Count a request in, unless a limit stands against it; `leave` counts it out."""
        at_once = self.limits.concurrent_requests
        if at_once is not None and self.open >= at_once:
            return Exceeded(Dimension.CONCURRENCY, at_once, 1.0)
        if self._requests is not None:
            wait_s = self._requests.wait_s(1, now_s)
            if wait_s > 0:
                return _exceeded(Dimension.REQUESTS, self._requests, wait_s)
            self._requests.take(1, now_s)
        self.open += 1
        return None

    def leave(self) -> None:
        """Count a request out."""
        self.open -= 1

    def reserve(self, prompt_tokens: int, output_tokens: int, now_s: float) -> int | Exceeded:
        """Set tokens aside for a request that has entered; return how many.

        A prompt of more than a minute's worth never gets in. Output that may or may not come is set
        aside only as far as a full bucket holds it: the rest is settled when it has come.
        """
        bucket = self._tokens
        if bucket is None:
            return 0
        wanted = max(prompt_tokens, min(prompt_tokens + output_tokens, bucket.per_minute))
        wait_s = bucket.wait_s(wanted, now_s)
        if wait_s > 0:
            return _exceeded(Dimension.TOKENS, bucket, wait_s)
        bucket.take(wanted, now_s)
        return wanted

    def settle(self, reserved: int, used: int, now_s: float) -> None:
        """Take what was really used in place of what was set aside; what is lacking is a debt."""
        if self._tokens is not None:
            self._tokens.take(used - reserved, now_s)

    def left(self, now_s: float) -> dict[Dimension, Left]:
        """Return what is left of the limits per minute."""
        buckets = ((Dimension.REQUESTS, self._requests), (Dimension.TOKENS, self._tokens))
        return {name: _left(each, now_s) for name, each in buckets if each is not None}

    def changed(self, limits: Limits, now_s: float) -> None:
        """Go on under other limits; a limit that is unchanged keeps what has been used of it."""
        old, self.limits = self.limits, limits
        if old.requests_per_minute != limits.requests_per_minute:
            self._requests = _bucket(limits.requests_per_minute, now_s)
        if old.tokens_per_minute != limits.tokens_per_minute:
            self._tokens = _bucket(limits.tokens_per_minute, now_s)


def _bucket(per_minute: int | None, now_s: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now_s)


def _exceeded(dimension: Dimension, bucket: Bucket, wait_s: float) -> Exceeded:
    return Exceeded(dimension, bucket.per_minute, wait_s if wait_s != float("inf") else None)


def _left(bucket: Bucket, now_s: float) -> Left:
    level = bucket.level(now_s)
    reset_s = (bucket.per_minute - level) * _MINUTE_S / bucket.per_minute
    return Left(bucket.per_minute, max(0, int(level)), reset_s)
