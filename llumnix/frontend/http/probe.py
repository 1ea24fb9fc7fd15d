"""Ask an instance whether it is alive, at once: one question however many requests ask."""

import asyncio
import enum

import aiohttp

from llumnix.instances.condition.shortage import is_ours
from llumnix.instances.discovery import ask
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.instance import Instance

_TIMEOUT_S = 0.3


class Life(enum.Enum):
    """What a probe found."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    """It accepts no connection."""
    SICK = enum.auto()
    """It says itself that its engine is dead."""
    UNKNOWN = enum.auto()


class LifeProbe:
    """Probes instances by their /health. A server without that page is alive if it says so."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._asking: dict[str, asyncio.Task[Life]] = {}

    async def ask(self, instance: Instance) -> Life:
        """Return what is known now, within a third of a second."""
        url = instance.url
        task = self._asking.get(url)
        if task is None:
            task = self._asking[url] = asyncio.create_task(
                self._ask(instance.endpoint), name=f"probe {url}"
            )
            task.add_done_callback(lambda _: self._asking.pop(url, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up the probes under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, endpoint: Endpoint) -> Life:
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                ask(self._session, endpoint, "/health") as told,
            ):
                return Life.SICK if told.status >= 500 else Life.ALIVE
        except aiohttp.ClientConnectorError as error:
            return Life.UNKNOWN if is_ours(error) else Life.DEAD
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Life.UNKNOWN
