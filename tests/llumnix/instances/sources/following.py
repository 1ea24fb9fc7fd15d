"""Follow a source in a test, listing by listing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from llumnix.instances.sources.source import Listing, Source, SourceFailed

DEADLINE_S = 20.0


class Following:
    """What a source says, one thing at a time; it goes on meanwhile, as in a fleet."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Listing | SourceFailed] = asyncio.Queue()

    async def follow(self, source: Source) -> None:
        """Take in what it says, without end."""
        async with aclosing(source.listings()) as listings:
            async for told in listings:
                self.told.put_nowait(told)

    async def urls(self) -> list[str]:
        """Return the URLs of the next listing; fail if the source fails first."""
        return [each.url for each in await self.specs()]

    async def urls_at_last(self) -> list[str]:
        """Return the URLs of the next listing, however often the source fails first."""
        while isinstance(told := await self._next(), SourceFailed):
            pass
        return [each.url for each in told]

    async def specs(self) -> Listing:
        """Return the next listing."""
        told = await self._next()
        assert not isinstance(told, SourceFailed), told
        return told

    async def failure(self) -> str:
        """Return why it fails, which must come next."""
        told = await self._next()
        assert isinstance(told, SourceFailed), told
        return str(told)

    async def _next(self) -> Listing | SourceFailed:
        async with asyncio.timeout(DEADLINE_S):
            return await self.told.get()


@asynccontextmanager
async def following(source: Source) -> AsyncIterator[Following]:
    """Follow a source for as long as the context lasts."""
    made = Following()
    task = asyncio.create_task(made.follow(source))
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
