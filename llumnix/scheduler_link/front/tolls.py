"""Limits of keys that hold over several frontends: counted by the scheduler's process."""

import itertools
from collections.abc import Callable
from typing import Any

from llumnix.frontend.access.limits import Dimension, Exceeded, Left, Limits
from llumnix.scheduler_link import tolls
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.front.health import Ask
from llumnix.scheduler_link.messages import Asked, Kind


class FarToll:
    """One visit of a caller with limits; see `llumnix.frontend.access.gate.Toll`."""

    def __init__(self, book: "FarTolls", number: int, key_hash: str, limits: Limits) -> None:
        self.left: dict[Dimension, Left] = {}
        self._book = book
        self._number = number
        self._key_hash = key_hash
        self._limits = limits
        self._wanted = 0, 0

    def plain(self) -> list[Any]:
        """Return what another scheduler is to know of the visit."""
        return [self._number, self._key_hash, tolls.limits_plain(self._limits), *self._wanted]

    async def reserve(self, prompt_tokens: int, output_tokens: int) -> Exceeded | None:
        """Set tokens aside. Without a scheduler nothing stands against it."""
        asked = [self._number, prompt_tokens, output_tokens]
        told = await self._book.ask(Asked.RESERVE, asked)
        if told is None:
            return None
        self.left = tolls.left_of(told)
        exceeded = tolls.exceeded_of(told)
        if exceeded is None:
            self._wanted = prompt_tokens, output_tokens
        return exceeded

    def end(self, tokens: int) -> None:
        """Count the request out, with the tokens that it has used."""
        self._book.end(self._number, tokens)


class FarTolls:
    """The visits of this frontend that the scheduler counts."""

    def __init__(self, post: Callable[[Message], None], ask: Ask) -> None:
        self.ask = ask
        self._post = post
        self._open: dict[int, FarToll] = {}
        self._numbers = itertools.count()

    async def enter(self, key_hash: str, limits: Limits) -> FarToll | Exceeded | None:
        """Count a request in, or say what stands against it; None without a scheduler."""
        number = next(self._numbers)
        try:
            told = await self.ask(Asked.ADMIT, [number, key_hash, tolls.limits_plain(limits)])
        except BaseException:
            self.end(number, 0)
            raise
        if told is None:
            return None
        exceeded = tolls.exceeded_of(told)
        if exceeded is not None:
            return exceeded
        toll = self._open[number] = FarToll(self, number, key_hash, limits)
        toll.left = tolls.left_of(told)
        return toll

    def end(self, number: int, tokens: int) -> None:
        """Note that a visit is over."""
        self._open.pop(number, None)
        self._post([Kind.VISITED, number, tokens])

    def whole(self) -> list[list[Any]]:
        """Return all visits that are under way."""
        return [each.plain() for each in self._open.values()]
