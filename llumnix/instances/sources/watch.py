"""Follow the sources of servers, and make members of what they list."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing

from llumnix.errors import ConfigError
from llumnix.instances.sources.source import Listing, Source, SourceFailed
from llumnix.tasks import spawn

log = logging.getLogger(__name__)

_AGAIN_S = 5.0

Publish = Callable[[Listing, str], Awaitable[None]]
"""Makes members of what a source, given by name, lists. Raises ConfigError."""
Drop = Callable[[str], Awaitable[None]]
"""Lets the members of a source go that is no longer followed."""
Note = Callable[[str, str], None]
"""Writes an event: its kind, and a text."""


class SourceWatch:
    """Follows sources, each in a task of its own, for as long as they are asked for.

    A source that fails changes nothing. That it does is said once, until it works again.
    """

    def __init__(self, publish: Publish, drop: Drop, note: Note) -> None:
        self._publish = publish
        self._drop = drop
        self._note = note
        self._following: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, str] = {}

    def failures(self) -> Mapping[str, str]:
        """Return why each source fails, by name; "" for one that works."""
        return {name: self._failures.get(name, "") for name in self._following}

    async def follow(self, sources: Iterable[Source]) -> None:
        """Follow these from now on, and no others; those followed already go on as they are."""
        wanted = {each.name: each for each in sources}
        for name in [each for each in self._following if each not in wanted]:
            await _end([self._following.pop(name)])
            await self._drop(name)
        for name, source in wanted.items():
            if name not in self._following:
                self._following[name] = spawn(self._watch(source), f"follow {name}")

    async def close(self) -> None:
        """Follow none."""
        tasks = list(self._following.values())
        self._following.clear()
        await _end(tasks)

    async def _watch(self, source: Source) -> None:
        self._failures[source.name] = "it has not answered yet"
        said = ""
        while True:
            async with aclosing(_surviving(source)) as listings:
                async for told in listings:
                    failure = await self._take(source.name, told)
                    self._failures[source.name] = failure
                    self._say(source.name, failure, said)
                    said = failure
            await asyncio.sleep(_AGAIN_S)

    def _say(self, name: str, failure: str, said: str) -> None:
        if failure and failure != said:
            log.warning("source_failed source=%s reason=%s", name, failure)
            self._note("source_failed", f"{name}: {failure}; the fleet stays as it is")
        elif said and not failure:
            log.warning("source_works source=%s", name)
            self._note("source_works", f"{name} can be read again")

    async def _take(self, name: str, told: Listing | SourceFailed) -> str:
        """Make members of what a source lists; return why that is not possible, or ""."""
        if isinstance(told, SourceFailed):
            return str(told)
        try:
            await self._publish(told, name)
        except ConfigError as error:
            return str(error)
        return ""


async def _surviving(source: Source) -> AsyncGenerator[Listing | SourceFailed, None]:
    """Yield what a source says, and as its last word a fault of its own code."""
    try:
        async with aclosing(source.listings()) as listings:
            async for told in listings:
                yield told
    except Exception as error:  # nothing ends the following of a source
        log.exception("source_error source=%s", source.name)
        yield SourceFailed(f"{type(error).__name__}: {error}")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
