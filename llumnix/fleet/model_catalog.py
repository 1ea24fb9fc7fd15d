"""What the instances serve: asked again when a client names a model that none of them has."""

import asyncio
import logging
import time
from dataclasses import dataclass, field

import aiohttp

from llumnix.instances.discovery import fetch_models
from llumnix.instances.instance import Instance
from llumnix.instances.table import InstanceTable

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 1.0
_PATIENCE_S = 2.0
_AT_ONCE = 32


@dataclass(slots=True)
class ModelCatalog:
    """Keeps the instances' models current. Times are wall seconds.

    However many clients ask for models that do not exist, each instance is asked at most once a
    second: all who have come by then wait for that round of questions, never for an earlier one,
    whose answers a model loaded since would belie.
    """

    session: aiohttp.ClientSession
    instances: InstanceTable
    interval_s: float
    _coming: asyncio.Task[None] | None = None
    _rounds: set[asyncio.Task[None]] = field(default_factory=set)
    _asked_at: float = field(default=float("-inf"))

    async def run(self) -> None:
        """Ask all instances at every interval, until cancelled."""
        while True:
            await asyncio.sleep(self.interval_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Ask all instances that are up what they serve, now or within a second."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._round(), name="ask for models")
            self._rounds.add(self._coming)
            self._coming.add_done_callback(self._over)
        # One that gives up waiting must not end it for the others.
        await asyncio.shield(self._coming)

    async def close(self) -> None:
        """Ask no more."""
        for task in self._rounds:
            task.cancel()
        await asyncio.gather(*self._rounds, return_exceptions=True)

    async def _round(self) -> None:
        await asyncio.sleep(self._asked_at + _ASK_AGAIN_S - time.monotonic())
        self._asked_at = time.monotonic()
        self._coming = None  # who comes from here on waits for the next
        await self._ask_all()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._rounds.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("models_not_asked error=%r", task.exception())

    async def _ask_all(self) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._ask(each, turns) for each in self.instances.alive()))

    async def _ask(self, instance: Instance, turns: asyncio.Semaphore) -> None:
        link = instance.link
        try:
            async with turns, asyncio.timeout(_PATIENCE_S):
                models = await fetch_models(self.session, instance.endpoint)
        except Exception as error:
            # Whatever it is, whether the server is still there is for its keeper to find out.
            log.debug("models_unknown instance=%s error=%r", instance.id, error)
            return
        if link is not None and instance.link is link:
            instance.know_models(models)
