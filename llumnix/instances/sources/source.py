"""What a source of servers is, and how one that has to be asked is followed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from llumnix.instances.config import InstanceSpec

Listing = tuple[InstanceSpec, ...]


class SourceFailed(Exception):  # noqa: N818 - what the source said, not what we did
    """A source could not be asked, or gave no usable answer: what it last listed still counts."""


class Source(Protocol):
    """Lists servers, and lists them again whenever they change."""

    @property
    def name(self) -> str:
        """Return what it is called in logs: the URL that it was given as, or `file:` and a path."""

    def listings(self) -> AsyncGenerator[Listing | SourceFailed, None]:
        """Yield what it lists, first and after every change, and why it cannot be asked.

        It goes on after a failure, without end.
        """


@dataclass(frozen=True, slots=True)
class Asked:
    """A source that is asked again at every interval (wall seconds); `ask` bounds its own time.

    `ask` raises SourceFailed.
    """

    name: str
    ask: Callable[[], Awaitable[Listing]]
    interval_s: float

    async def listings(self) -> AsyncGenerator[Listing | SourceFailed, None]:
        """See Source."""
        last: Listing | None = None
        while True:
            try:
                found = await self.ask()
            except SourceFailed as failed:
                yield failed
                last = None  # so that it is heard when it works again
            else:
                if found != last:
                    last = found
                    yield found
            await asyncio.sleep(self.interval_s)
