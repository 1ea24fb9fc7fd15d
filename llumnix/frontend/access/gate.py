"""The gate: which caller a request comes from, and whether that caller may send it now."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from llumnix.frontend.access.caller import ANYONE, Caller
from llumnix.frontend.access.keys import hash_of, read_keys
from llumnix.frontend.access.limits import Allowance, Dimension, Exceeded, Left, Limits
from llumnix.frontend.request.headers import KEY_HEADERS
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import Classes

_NONE = Limits()
_WORDS = {
    Dimension.REQUESTS: "requests per minute",
    Dimension.TOKENS: "tokens per minute",
    Dimension.CONCURRENCY: "requests at once",
}


class Toll(Protocol):
    """One visit that is counted elsewhere, where other frontends count theirs."""

    left: dict[Dimension, Left]

    async def reserve(self, prompt_tokens: int, output_tokens: int) -> Exceeded | None:
        """Set tokens aside for the request, unless there are too few."""

    def end(self, tokens: int) -> None:
        """Count the request out, with the tokens that it has used in all."""


class Tolls(Protocol):
    """Counts visits for several frontends together."""

    async def enter(self, key_hash: str, limits: Limits) -> Toll | Exceeded | None:
        """Count a request in, or say what stands against it; None if nobody counts now."""


class Visit:
    """One request of a caller, from the door to its end; `toll` is set if it is counted there."""

    def __init__(
        self,
        caller: Caller,
        allowance: Allowance,
        now: Callable[[], float],
        toll: Toll | None = None,
        *,
        keyed: bool = True,
    ) -> None:
        self._toll = toll
        self.caller = caller
        self._allowance = allowance
        self._now = now
        self._keyed = keyed
        self._reserved = 0

    def classes(self, fleet: Classes) -> Classes:
        """Return the fleet's classes as this caller may use them."""
        return self.caller.classes(fleet) if self._keyed else fleet

    async def reserve(self, prompt_tokens: int, output_tokens: int) -> Refusal | None:
        """Set tokens aside for the request; a Refusal says that there are too few."""
        if self._toll is not None:
            exceeded = await self._toll.reserve(prompt_tokens, output_tokens)
            return None if exceeded is None else refused(exceeded)
        reserved = self._allowance.reserve(prompt_tokens, output_tokens, self._now())
        if isinstance(reserved, Exceeded):
            return refused(reserved)
        self._reserved = reserved
        return None

    def end(self, tokens: int) -> None:
        """Count the request out, with the tokens that it has used in all."""
        if self._toll is not None:
            self._toll.end(tokens)
            return
        self._allowance.settle(self._reserved, tokens, self._now())
        self._reserved = 0
        self._allowance.leave()

    def headers(self) -> dict[str, str]:
        """Return what the client is told of its limits, in OpenAI's headers."""
        told, toll = {}, self._toll
        known = self._allowance.left(self._now()) if toll is None else toll.left
        for dimension, left in known.items():
            told[f"x-ratelimit-limit-{dimension}"] = str(left.limit)
            told[f"x-ratelimit-remaining-{dimension}"] = str(left.remaining)
            told[f"x-ratelimit-reset-{dimension}"] = _duration(left.reset_s)
        return told


class Gate:
    """Knows the keys; without a keys file nobody has to ask it.

    `now` is a monotonic clock in seconds; `tolls` counts for all frontends where there are others.
    Raises ConfigError for an unusable file.
    """

    def __init__(
        self,
        keys_file: str,
        class_names: Sequence[str],
        now: Callable[[], float],
        tolls: Tolls | None = None,
    ) -> None:
        self._tolls = tolls
        self.keyed = bool(keys_file)
        self._keys_file = keys_file
        self._class_names = tuple(class_names)
        self._now = now
        self._callers: dict[str, Caller] = {}
        self._allowances: dict[str, Allowance] = {}
        self.use(self.read())

    def read(self) -> dict[str, Caller]:
        """Read the keys file, for `use`. Raises ConfigError."""
        return read_keys(self._keys_file, self._class_names) if self.keyed else {}

    def use(self, callers: dict[str, Caller]) -> None:
        """Go by these keys from now on; a key that was known keeps what it has used.

        Requests that are being served go on, also those of a key that is gone.
        """
        now_s, kept = self._now(), {}
        for key_hash, caller in callers.items():
            allowance = self._allowances.get(key_hash)
            if allowance is None:
                allowance = Allowance(caller.limits, now_s)
            else:
                allowance.changed(caller.limits, now_s)
            kept[key_hash] = allowance
        self._callers, self._allowances = callers, kept

    def tenants(self) -> list[str]:
        """Return the tenants, in the order of the file."""
        return list(dict.fromkeys(caller.tenant for caller in self._callers.values()))

    def unlimited(self, headers: Mapping[str, str]) -> Caller | None:
        """Return who asks, if nothing need be counted for that; None: `enter` knows what to do."""
        if not self.keyed:
            return ANYONE
        key = _key_of(headers)
        caller = None if key is None else self._callers.get(hash_of(key))
        return caller if caller is not None and caller.limits == _NONE else None

    async def enter(self, headers: Mapping[str, str]) -> Visit | Refusal:
        """Let a request in, or say why not; end the visit when the request is over."""
        key = _key_of(headers)
        if key is None:
            return Refusal(
                401,
                "an API key is needed: Authorization: Bearer <key>",
                "missing_api_key",
            )
        key_hash = hash_of(key)
        caller = self._callers.get(key_hash)
        if caller is None:
            return Refusal(401, "the API key is not valid", "invalid_api_key")
        allowance, toll = self._allowances[key_hash], None
        if self._tolls is not None and caller.limits != _NONE:
            toll = await self._tolls.enter(key_hash, caller.limits)
            if isinstance(toll, Exceeded):
                return refused(toll)
            if toll is not None:
                return Visit(caller, allowance, self._now, toll)
        exceeded = allowance.enter(self._now())
        return refused(exceeded) if exceeded is not None else Visit(caller, allowance, self._now)


def refused(exceeded: Exceeded) -> Refusal:
    """Return the refusal of a request that a limit stands against."""
    what = f"{exceeded.limit} {_WORDS[exceeded.dimension]}"
    if exceeded.wait_s is None:
        return Refusal(
            429, f"the request alone is larger than this key's {what}", "rate_limit_exceeded"
        )
    return Refusal(
        429,
        f"this key's limit of {what} is reached",
        "rate_limit_exceeded",
        retry_after_s=exceeded.wait_s,
    )


def _key_of(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get(KEY_HEADERS[0], "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get(KEY_HEADERS[1], "").strip() or None


def _duration(seconds: float) -> str:
    """Return a time as OpenAI's rate limit headers say it: 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{round(1000 * seconds)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.0f}s" if minutes else f"{seconds:.3g}s"
